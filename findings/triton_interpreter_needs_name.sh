#!/usr/bin/env bash
# Triton 3.7.1 (torch 2.13.0, no GPU): a jit function in a module that does not import `triton.language`, because it only
# does arithmetic or calls functions of other modules, compiles for a card, and works in a kernel of another module. In
# the interpreter (TRITON_INTERPRET=1) the same kernel ends with "triton.language must be visible from within jit'd
# function". Expected: the interpreter runs what compiles. It matters since a linter calls that import unused. Way out:
# keep `import triton.language as tl` in every module that has a jit function.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet triton==3.7.1
cat > "$folder/polynomial.py" <<'PY'
import triton


@triton.jit
def cubic(x):
    return ((x + 2.0) * x - 1.0) * x
PY
cat > "$folder/kernels.py" <<'PY'
import triton
import triton.language as tl
from polynomial import cubic


@triton.jit
def kernel(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, cubic(tl.load(x + at)))
PY
cat > "$folder/compiled.py" <<'PY'
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import kernel

source = ASTSource(kernel, signature={"x": "*fp32", "y": "*fp32", "n": "constexpr"}, constexprs={(2,): 8})
built = triton.compile(source, target=GPUTarget("cuda", 90, 32))
assert "fma" in built.asm["ptx"]
print(f"Triton {triton.__version__}: compiled for sm_90, {len(built.asm['ptx'].splitlines())} lines of PTX")
PY
cat > "$folder/interpreted.py" <<'PY'
import torch

from kernels import kernel

try:
    kernel[(1,)](torch.arange(8.0), torch.zeros(8), 8)
except Exception as error:
    print(f"interpreter: {type(error).__name__}: {error}")
    assert "triton.language must be visible" in str(error)
else:
    raise SystemExit("the interpreter runs it now")
PY
cd "$folder"
"$folder/venv/bin/python" compiled.py
TRITON_INTERPRET=1 "$folder/venv/bin/python" interpreted.py
