"""Without a GPU, makes Triton run kernels in its interpreter. Import this module before torch, which imports Triton."""

from __future__ import annotations

import os
import shutil
from types import FunctionType
from typing import Any

if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    os.environ["TRITON_INTERPRET"] = "1"


class _NothingToRestore:
    def restore(self) -> None: ...


def keep_language_interpreted() -> None:
    """Let the interpreter replace the functions of Triton's language once, not for each kernel and each call in it.

    The interpreter would restore them after each kernel, for programs that also compile kernels. Tests do not.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    try:
        from triton import language
        from triton.runtime import interpreter
    except ImportError:
        return  # Triton is not made for this platform
    replace = interpreter._patch_lang
    if replace.__module__ == __name__:  # an earlier call has done this already
        return
    replaced: set[frozenset[str]] = set()

    def replace_once(function: FunctionType) -> Any:
        modules = (value for value in function.__globals__.values() if value is language or value is language.core)
        if (names := frozenset(module.__name__ for module in modules)) not in replaced:
            replaced.add(names)
            replace(function)
        return _NothingToRestore()

    interpreter._patch_lang = replace_once
