#!/usr/bin/env bash
# safetensors 0.8.0 with NumPy 2.4.6: `safetensors.numpy.save` writes a transposed or Fortran-ordered array with its
# numbers in another order, under the shape of the view, and says nothing. `load` then returns an array of the right
# shape and the wrong content. Expected: the array that was saved (as 0.7.0 gave), or an error that asks for a
# contiguous one. Seen: kept {'transposed': False, 'Fortran order': False, 'contiguous': True}. Way out:
# `np.ascontiguousarray` on everything that is saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.7.0 0.8.0; do
    "$folder/venv/bin/pip" install --quiet "safetensors==$version" numpy==2.4.6
    "$folder/venv/bin/python" - <<'PY'
import numpy as np
import safetensors
from safetensors.numpy import load, save

array = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {"transposed": array.T, "Fortran order": np.asfortranarray(array), "contiguous": array}
kept = {name: bool((load(save({"x": view}))["x"] == view).all()) for name, view in views.items()}
print(f"safetensors {safetensors.__version__}: kept {kept}")
broken = safetensors.__version__ == "0.8.0"
assert kept == {"transposed": not broken, "Fortran order": not broken, "contiguous": True}, kept
PY
done
