"""The commands of `continual`, one module each."""
