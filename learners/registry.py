"""Finds learners: every module of `learners.methods`, and the modules a deployment names.

A learner is one file that defines a `LearnerSpec` subclass; importing the file registers it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from types import ModuleType

PLUGINS = "CONTINUAL_LEARNERS"
"""Environment variable: comma-separated modules that define further learners."""


def import_all(package: ModuleType) -> None:
    """Imports every module of a package."""
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


@cache
def load_learners() -> None:
    """Imports every learner's file once.

    Raises:
        ImportError: a module named by `CONTINUAL_LEARNERS` cannot be imported.
    """
    from learners import methods

    import_all(methods)
    for name in filter(None, os.environ.get(PLUGINS, "").split(",")):
        importlib.import_module(name.strip())
