"""The wave of `kernels.reference.wave` in Triton: B distinct keys a launch. Nothing here imports Triton but its modules."""
