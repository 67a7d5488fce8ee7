"""Queues into logs: a consumer per source, supervised by Ray, that remembers nothing the log does not."""
