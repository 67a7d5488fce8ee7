#!/usr/bin/env bash
# Triton 3.7.1 with TRITON_INTERPRET=1 (torch 2.13.0, no GPU): the interpreter does not round as compiled kernels do. A
# Python float that is passed to a kernel stays a double (compiled code takes it as float32), so that `1.0 - beta` for
# beta = 0.999 is 0.0010000000 in place of 0.0009999871, 1.3e-5 apart; and a conversion of float32 to bfloat16 cuts bits
# off: of 1.005859375 the interpreter makes 1.0, while hardware and torch round to the nearest, 1.0078125. Expected: the
# arithmetic of the compiled kernel, as the interpreter is what one tests kernels with where no GPU is. Way out: pass
# scalars as tensors of one float32; convert to bfloat16 outside.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet triton==3.7.1
cat > "$folder/kernel.py" <<'PY'
import torch
import triton
import triton.language as tl


@triton.jit
def kernel(beta, beta_at, x, plain, loaded, narrow, n: tl.constexpr):
    at = tl.arange(0, n)
    zeros = tl.zeros((n,), tl.float32)
    tl.store(plain + at, (1.0 - beta) + zeros)
    tl.store(loaded + at, (1.0 - tl.load(beta_at)) + zeros)
    tl.store(narrow + at, tl.load(x + at).to(tl.bfloat16))


x = torch.tensor([1.005859375, 0.1, 2.0, 3.0])
plain, loaded, narrow = torch.zeros(4), torch.zeros(4), torch.zeros(4, dtype=torch.bfloat16)
kernel[(1,)](0.999, torch.tensor([0.999]), x, plain, loaded, narrow, 4)
rounded = (torch.tensor(1.0) - torch.tensor(0.999)).item()
print(f"Triton {triton.__version__}, interpreter: 1 - beta of a Python float {plain[0].item():.10f}, of a loaded float32 "
      f"{loaded[0].item():.10f}; float32 gives {rounded:.10f}")
print(f"to bfloat16: {narrow.tolist()}; torch gives {x.bfloat16().tolist()}")
assert loaded[0].item() == rounded
assert abs(plain[0].item() / rounded - 1) > 1e-5
assert narrow.tolist() != x.bfloat16().tolist()
PY
TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/kernel.py"
