"""How kernels are compiled by numba, and where they are kept: apart for each state of the sources.

A fire does not wait for disk space: what cannot be kept, because a disk is full or read-only, is compiled all
the same, and a warning says so once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from numba import config, njit, prange, types
from numba.core import dispatcher as numba_dispatcher
from numba.core.caching import FunctionCache
from numba.core.options import DefaultOptions

from evac.planning.compiled import kept_in, kernel_bases

__all__ = ["by_type", "dispatcher"]

# A switch of numba that its manual does not name: where a version lacks it, kernels are slower, not wrong.
# Both values are stated, as a kernel without one takes that of the kernel that calls it first.
_KNOWN: Final = hasattr(DefaultOptions, "_nrt")
_UNLITERAL: Final[Any] = types.unliteral
_LOG: Final = logging.getLogger("evac.planning")
_SAID: Final[list[str]] = []


if (_home := kept_in(kernel_bases(), Path(__file__).parents[1])) is not None:
    vars(config)["CACHE_DIR"] = str(_home)


_Numba: Any = FunctionCache


class _Kept(_Numba):  # type: ignore[misc]
    """What numba keeps of one function, as far as there is room for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._enabled, self._cache_path = False, ""
        try:
            super().__init__(function)
        except RuntimeError as error:  # no folder can be written
            _say_once(str(error))
            return
        if _home is not None and not Path(self._cache_path).is_relative_to(_home):  # numba took another one
            self._enabled = False
            _say_once(f"{_home} takes no folder more")

    def load_overload(self, signature: Any, target: Any) -> Any:
        return super().load_overload(signature, target) if self._enabled else None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        if not self._enabled:
            return
        try:
            super().save_overload(signature, compiled)
        except OSError as error:
            _say_once(f"{self._cache_path}: {error.strerror or error}")
            with contextlib.suppress(OSError):  # an index that names what was not written is worse than none
                Path(self._cache_file._index_path).unlink(missing_ok=True)


def _say_once(why: str) -> None:
    if not _SAID:
        _SAID.append(why)
        _LOG.warning(
            "the compiled planner is not kept, and the next start compiles it again: %s. "
            "Make room there, or name another folder: NUMBA_CACHE_DIR",
            why,
        )


vars(numba_dispatcher)["FunctionCache"] = _Kept


def dispatcher(function: FunctionType, options: Mapping[str, Any]) -> Any:
    """The compiled function of a kernel, from the cache where it is there."""
    chosen: dict[str, Any] = {"cache": True, **options}
    counted = chosen.pop("counted", None)
    if "inline" in chosen:
        return njit(inline=chosen["inline"])(function)
    if counted is not None and _KNOWN:
        chosen["_nrt"] = counted
    if "parallel" in chosen:
        world = {**function.__globals__, "prange": prange}
        function = FunctionType(function.__code__, world, function.__name__)
    return by_type(njit(**chosen)(function))


def by_type(compiled: Any) -> Any:
    """The same compiled function, compiled once for all whole numbers that kernels pass to it.

    numba by itself compiles it again for each constant that a kernel passes, and for whole numbers of fewer
    bits, and so all that it calls in turn. A numba that never asks this way still does, which is only slow.
    """
    asked = getattr(compiled, "get_call_template", None)
    if asked is None:
        return compiled

    def get_call_template(args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        return asked(tuple(map(_widened, args)), {name: _widened(one) for name, one in named.items()})

    compiled.get_call_template = get_call_template
    return compiled


def _widened(one: Any) -> Any:
    plain = _UNLITERAL(one)
    return types.int64 if plain in types.signed_domain else plain
