"""The version of the kernels follows every source of them: it names the cache of compiled code."""

from __future__ import annotations

import shutil
from pathlib import Path

import kernels


def test_the_version_changes_with_any_source(tmp_path, monkeypatch) -> None:
    shutil.copytree(Path(kernels.__file__).parent / "cpu", tmp_path / "cpu")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    seen = {kernels.sources_digest()}
    assert seen == {kernels.KERNEL_VERSION}
    sources = list((tmp_path / "cpu").rglob("*.py"))
    for number, source in enumerate(sources, 2):
        source.write_bytes(source.read_bytes() + b"\n")
        seen.add(kernels.sources_digest())
        assert len(seen) == number, source
    assert any(source.parent.name == "cells" for source in sources)
