"""Dense recurrences, trained by SnAp-1, UORO and truncated backpropagation: what element-wise cells are compared with.

A dense unit sees all units of the state before, so exact RTRL would cost N times the memory of the weights. The
methods here are the affordable ways around it, over batches of sequences as in `kernels.cpu.sequence`: each has a
`run`, which leaves in `body` what its `gradient` needs.

Sizes: B sequences of T steps, J inputs (the last is the constant 1), N units, G gates, I = J + N. The weights are
[G, I, N], flat: rows of the inputs, then rows of the state before. Units are contiguous. One dtype for all arrays.
"""
