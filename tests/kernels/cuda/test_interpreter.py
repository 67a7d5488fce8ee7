"""The Triton wave in the interpreter, without a card: `wave_checks.py`, in a process of its own.

TRITON_INTERPRET must be set before Triton is imported, and would reach every other test of this process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def test_every_kernel_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "wave_checks.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"^\d\d+ passed(, \d+ warnings)? in ", done.stdout, re.MULTILINE), done.stdout[-2000:]


def test_kernels_and_the_reference_need_no_triton() -> None:
    """What a machine without Triton imports must not ask for it; nor does the product at its start."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import kernels, kernels.cuda, kernels.reference.wave, kernels.cpu.fold, kernels.reference.fold\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True)
