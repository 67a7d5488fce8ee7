"""Metrics of continual learning, each with its exact definition; `docs/metrics.md` lists them all.

`matrix` is over accuracies after each experience, `curves` over accuracies during them, `stream` over predictions made
before learning (with `streams.metrics`), `probabilities` over what a test was given, `cost` over time, work and bytes.
"""
