"""The same operations op by op in plain PyTorch, in the dtype given: the documentation of the compiled forms."""
