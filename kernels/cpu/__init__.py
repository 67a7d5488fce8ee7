"""Kernels compiled by numba: no compiler at install, the interpreter lock released while they run."""
