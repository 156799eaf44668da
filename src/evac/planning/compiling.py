"""Compiles kernels with numba and caches them: one folder for each version of the sources.

A kernel that only kernels call stays LLVM's intermediate code, in memory. LLVM optimises it and makes machine
code of it together with each kernel that Python calls. Only those are cached.

If a disk is full or read-only, kernels are compiled but not cached, with one warning: an evacuation must not
wait for disk space.
"""

# numba's classes state no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, Final

from llvmlite import binding
from numba import config, njit, prange, types
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from evac.planning.compiled import PROGRESS, kept_in, kernel_bases

__all__ = ["dispatcher"]

_CONFIG: Final[Any] = config
_NJIT: Final[Any] = njit
_TYPES: Final[Any] = types
_LLVM: Final[Any] = binding
_ENVIRONMENT: Final = "_ZN08NumbaEnv"
"""How numba begins the name of a kernel's environment: a pointer that it sets after compiling or loading."""
_LOG: Final = logging.getLogger("evac.planning")
_WARNED: Final[list[str]] = []
_HOME: Final = kept_in(kernel_bases(), Path(__file__).parents[1])
if _HOME is not None:
    _CONFIG.CACHE_DIR = str(_HOME)


def dispatcher(function: FunctionType, options: Mapping[str, Any]) -> Any:
    """A kernel's compiled function, from the cache if present.

    This module alone uses undocumented parts of numba, which is why its version is pinned: the option
    `_nrt`, `get_call_template`, the cache of a function, and the library that holds its code.
    """
    chosen = {name: option for name, option in options.items() if name != "counted"}
    chosen["_nrt"] = options["counted"]
    if "no_cpython_wrapper" in chosen:
        compiled = _NJIT(pipeline_class=_InnerCompiler, **chosen)(function)
        compiled._cache = _Counter()
        return _for_any_integers(compiled)
    if "parallel" in chosen:
        world = {**function.__globals__, "prange": prange}
        function = FunctionType(function.__code__, world, function.__name__)
    else:
        chosen["pipeline_class"] = _OuterCompiler
    try:
        compiled = _NJIT(cache=_HOME is not None, **chosen)(function)
    except RuntimeError as error:  # no folder can be written
        _warn_once(str(error))
        compiled = _NJIT(**chosen)(function)
    compiled._cache = _Cache(compiled._cache)
    return _for_any_integers(compiled)


def _for_any_integers(compiled: Any) -> Any:
    """numba by itself compiles a kernel again for each constant that another one passes, and for narrower
    integers, and so all that it calls.
    """
    template = compiled.get_call_template

    def get_call_template(args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        return template(tuple(map(_widened, args)), {name: _widened(kind) for name, kind in named.items()})

    compiled.get_call_template = get_call_template
    return compiled


def _widened(kind: Any) -> Any:
    plain = _TYPES.unliteral(kind)
    return _TYPES.int64 if plain in _TYPES.signed_domain else plain


class _InnerLibrary(JITCodeLibrary):
    """The code of a kernel that only kernels call, and of all that it calls, to be linked into its callers.

    numba makes machine code of a library when it is finished. Here that is a module with nothing but the
    pointers to environments.
    """

    def _optimize_final_module(self) -> None:
        """Leaves it to the library of a kernel that Python calls, which has the callers too."""

    def _finalize_final_module(self) -> None:
        names = [one.name for one in self._final_module.global_variables]
        pointers = (
            f'@"{name}" = common global ptr null\n' for name in names if name.startswith(_ENVIRONMENT)
        )
        empty = self._codegen._create_empty_module(self.name)
        self._finalized = True
        self._get_module_for_linking()  # from now on the library has it
        self._final_module = _LLVM.parse_assembly(f"{empty}\n{''.join(pointers)}")
        super()._finalize_final_module()


class _KeptLibrary(JITCodeLibrary):
    """Code that can be kept. Intermediate code that was kept is read when a kernel is compiled that calls it:
    for most that is never, and reading it took longer than all else that loads a kernel.
    """

    _bitcode = b""

    def serialize_using_object_code(self) -> tuple[str, str, Any]:
        name, kind, kept = super().serialize_using_object_code()
        module = self._get_module_for_linking()
        parts = (*module.functions, *module.global_variables)
        return name, kind, (*kept, {one.name for one in parts if not one.is_declaration})

    @classmethod
    def _unserialize(cls, codegen: Any, state: tuple[str, str, Any]) -> Any:
        name, kind, kept = state
        if kind != "object" or len(kept) != len(("code", "bitcode", "defined")):  # of numba's own class
            return super()._unserialize(codegen, state)
        self = codegen.create_library(name)
        assert isinstance(self, cls)
        code, self._bitcode, defined = kept
        self.enable_object_caching()
        self._set_compiled_object(code)
        self._finalize_final_module()
        codegen._engine._defined_symbols |= defined
        return self

    def _get_module_for_linking(self) -> Any:
        if self._bitcode:
            self._shared_module = _LLVM.parse_bitcode(self._bitcode)
            self._bitcode = b""
        return super()._get_module_for_linking()


class _OuterLibrary(_KeptLibrary):
    """The code of a kernel that Python calls, and of all that it calls. Nothing else calls these copies, so
    LLVM may leave out arguments that they do not use: a board has two hundred.
    """

    def _optimize_final_module(self) -> None:
        for one in self._final_module.functions:
            if not one.is_declaration and one.linkage == _LLVM.Linkage.linkonce_odr:
                one.linkage = _LLVM.Linkage.internal
        super()._optimize_final_module()


class _InnerCompiler(Compiler):
    """numba's compiler, which puts the code into an `_InnerLibrary`."""

    library: ClassVar[type[JITCodeLibrary]] = _InnerLibrary

    def compile_extra(self, func: FunctionType) -> Any:
        library = self.library(self.state.targetctx.codegen(), func.__qualname__)
        library.enable_object_caching()
        self.state.library = library
        return super().compile_extra(func)


class _OuterCompiler(_InnerCompiler):
    """numba's compiler, which puts the code into an `_OuterLibrary`."""

    library = _OuterLibrary


class _Counter(NullCache):
    """Keeps no code; counts what has been compiled, so that another process can report progress."""

    def save_overload(self, signature: Any, data: Any) -> None:
        if _HOME is not None:
            with contextlib.suppress(OSError), (_HOME / PROGRESS).open("ab") as file:
                file.write(b".")


class _Cache:
    """numba's cache of one function, as far as the disk allows."""

    def __init__(self, cache: Any) -> None:
        self._cache, chosen = cache, cache.cache_path
        self._enabled = chosen is not None and Path(chosen).is_relative_to(str(_HOME))
        if chosen and not self._enabled:  # numba could not write there, and chose another folder
            _warn_once(f"cannot make a folder in {_HOME}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        if not self._enabled:
            return None
        target.codegen()._library_class = _KeptLibrary
        return self._cache.load_overload(signature, target)

    def save_overload(self, signature: Any, data: Any) -> None:
        if not self._enabled:
            return
        try:
            self._cache.save_overload(signature, data)
        except OSError as error:
            _warn_once(f"{self._cache.cache_path}: {error.strerror or error}")
            with contextlib.suppress(OSError):  # an index that names missing files is worse than none
                Path(self._cache._cache_file._index_path).unlink(missing_ok=True)


def _warn_once(why: str) -> None:
    if not _WARNED:
        _WARNED.append(why)
        _LOG.warning(
            "the compiled planner cannot be cached, so the next start compiles it again: %s. "
            "Free up space there, or set NUMBA_CACHE_DIR to another folder",
            why,
        )
