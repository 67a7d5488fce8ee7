"""Heads by spec: one file each."""
