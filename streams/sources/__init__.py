"""Queues that events come from: what a spec says of them, how they are read, how messages become columns."""
