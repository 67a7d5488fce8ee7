"""The Redis side: one embedded server, and the log, rows and snapshots of partitions in it."""
