"""Events as columns, the sources they come from, and the metrics over them."""
