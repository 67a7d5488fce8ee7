"""The place of each cell in the wave: from pre-activations, state and vectors to the next state and its derivatives.

A place is a Triton function
    place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower)
of tiles [keys, units] of the state (order 1: h1), the pre-activations (tied: real, imaginary part) and the vectors,
the gap [keys, 1] and the cell's lower bound; what a cell has not is anything. It returns, in one tuple, the state (D
tiles), jac (D^2), factor (M D) and vec (V D), in the order of `kernels.reference.wave_cells.Step`.
"""
