"""The bench and the command line."""
