"""How the parts of a kernel are compiled: to be linked into the kernel, and optimised there.

numba turns every function that it meets into machine code by itself, and everything that the function calls with it. A
fold consists of more than a hundred functions on a dozen levels, so that its innermost loops went through the optimiser
a dozen times, and most of the results were never called. A part goes through it once, in the kernel that needs it.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import NativeLowering


class _PartLibrary(JITCodeLibrary):
    """The code of a part and of all parts that it calls; each simplified by itself, none of it machine code."""

    def finalize(self) -> None:
        """Links what this part calls, for whom will link this part."""
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """Lowers a function to a `_PartLibrary`."""

    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        """Overrides `LoweringPass.run_pass`."""
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state.cr
        # Callers find a function by its entry from Python, which a part lacks: a stand-in without code.
        entry = _dynfunc.make_function(
            lowered.fndesc.lookup_module(), state.func_id.func_name, "", 0, lowered.env, (state.library,)
        )
        state.targetctx.insert_user_function(entry, lowered.fndesc, [state.library])
        state.cr = lowered._replace(cfunc=entry)
        return True


class PartCompiler(CompilerBase):
    """A `pipeline_class` of `numba.njit` for functions that compiled code alone calls."""

    def define_pipelines(self) -> list[Any]:
        """The pipeline of numba, but for the last step."""
        default = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager = PassManager("part")
        for step, name in default.passes:
            manager.add_pass(_PartLowering if step is NativeLowering else step, name)
        manager.finalize()
        return [manager]
