"""The wave of `kernels.reference.wave` in Triton: B distinct keys a launch. Only its modules import Triton."""
