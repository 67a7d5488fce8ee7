"""Everything that folds events."""
