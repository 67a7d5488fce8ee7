"""Scenarios of continual learning, the protocols by which learners are run on them, and the bench of both."""
