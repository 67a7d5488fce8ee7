"""Answers into queues: a sender per sink, supervised by Ray, that reads the log and what the fold said of it."""
