"""Compiles kernels with numba and caches them: one folder for each version of the sources.

If a disk is full or read-only, kernels are compiled but not cached, with one warning: an evacuation must not
wait for disk space.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from numba import config, njit, prange, types

from evac.planning.compiled import kept_in, kernel_bases

__all__ = ["dispatcher"]

_CONFIG: Final[Any] = config
_NJIT: Final[Any] = njit
_TYPES: Final[Any] = types
_LOG: Final = logging.getLogger("evac.planning")
_WARNED: Final[list[str]] = []
_HOME: Final = kept_in(kernel_bases(), Path(__file__).parents[1])
if _HOME is not None:
    _CONFIG.CACHE_DIR = str(_HOME)


def dispatcher(function: FunctionType, options: Mapping[str, Any]) -> Any:
    """A kernel's compiled function, from the cache if present.

    The only place that uses undocumented parts of numba, which is why its version is pinned: the option
    `_nrt`, `get_call_template` and the cache of a function.
    """
    if "inline" in options:
        return _NJIT(**options)(function)
    chosen = {name: option for name, option in options.items() if name != "counted"}
    chosen["_nrt"] = options["counted"]
    if "parallel" in chosen:
        world = {**function.__globals__, "prange": prange}
        function = FunctionType(function.__code__, world, function.__name__)
    try:
        compiled = _NJIT(cache=_HOME is not None, **chosen)(function)
    except RuntimeError as error:  # no folder can be written
        _warn_once(str(error))
        compiled = _NJIT(**chosen)(function)
    compiled._cache = _Cache(compiled._cache)
    template = compiled.get_call_template

    def get_call_template(args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        return template(tuple(map(_widened, args)), {name: _widened(kind) for name, kind in named.items()})

    # numba by itself compiles a kernel again for each constant that another one passes, and for narrower
    # integers, and so all that it calls.
    compiled.get_call_template = get_call_template
    return compiled


def _widened(kind: Any) -> Any:
    plain = _TYPES.unliteral(kind)
    return _TYPES.int64 if plain in _TYPES.signed_domain else plain


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
        return self._cache.load_overload(signature, target) if self._enabled else None

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
