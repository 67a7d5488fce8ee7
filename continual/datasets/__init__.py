"""Data sets with a training and a test part: where they come from, how their files are read, how they are fetched."""
