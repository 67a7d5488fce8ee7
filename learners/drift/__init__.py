"""Drift: detectors of it, what is done about it, and the test by which a challenger takes over."""
