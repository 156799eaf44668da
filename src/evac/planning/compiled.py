"""The decorators of kernels that take many tables, and why they are not plain njit.

A board or a state is a tuple of some thirty arrays. By default numba counts references to each of them on
each call and field access, which costs 0.7 to 1.4 microseconds a time, up to a hundred times the work
itself. Kernels that allocate nothing need no counting: their callers hold the arrays.

And where compiled kernels are kept: apart for each state of the sources. numba compiles a kernel anew where
the file changed in which it stands, and goes on with the old code of what is compiled into it from other
files: after an update a kernel that did not change would run the rules of before.

A fire does not wait for disk space: what cannot be kept, because a disk is full or read-only, is compiled all
the same and said once, as a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from numba import config, njit, prange, types
from numba.core import dispatcher
from numba.core.caching import FunctionCache
from numba.core.options import DefaultOptions

__all__ = [
    "allocating_inner",
    "allocating_kernel",
    "by_type",
    "inner",
    "kept_in",
    "kernel",
    "njit",
    "prange",
    "spliced",
    "unlocked_kernel",
    "vector_kernel",
]

Function = TypeVar("Function", bound=Callable[..., Any])

# A switch of numba that its manual does not name: where a version lacks it, kernels are slower, not wrong.
# Both values are stated, as a kernel without one takes that of the kernel that calls it first.
_KNOWN: Final = hasattr(DefaultOptions, "_nrt")
_UNCOUNTED: Final[dict[str, bool]] = {"_nrt": False} if _KNOWN else {}
_COUNTED: Final[dict[str, bool]] = {"_nrt": True} if _KNOWN else {}
_INNER: Final[dict[str, bool]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_UNLITERAL: Final[Any] = types.unliteral
_FOLDER: Final = "kernels-"
_LOG: Final = logging.getLogger("evac.planning")
_SAID: Final[list[str]] = []
_HAS_KERNELS: Final = b"from evac.planning.compiled import"
_IMPORTED: Final = re.compile(rb"^from (evac(?:\.\w+)+) import", re.MULTILINE)


def kept_in(bases: tuple[Path, ...], package: Path) -> Path | None:
    """The folder for kernels of this state of evac, under the first base in which it can be written; None
    where there is none. Of the folders of other states the newest stays: who runs on while evac is updated
    may read it.
    """
    name = _FOLDER + _digest(package)
    for base in bases:
        folder, is_new = base / name, False
        try:
            is_new = not folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True)  # another process may have made it just now
        except OSError:
            continue
        if not os.access(folder, os.W_OK):
            continue
        if is_new:
            others = (one for one in base.glob(f"{_FOLDER}*") if one != folder and one.is_dir())
            for old in sorted(others, key=_changed_ns)[:-1]:
                shutil.rmtree(old, ignore_errors=True)
        return folder
    return None


def _digest(package: Path) -> str:
    """Of all that is compiled into kernels: the modules that have any, and those from which they import."""
    contents: dict[Path, bytes] = {}
    for path in (package / "planning").rglob("*.py"):
        data = path.read_bytes()
        if _HAS_KERNELS in data:
            contents[path] = data
            for name in _IMPORTED.findall(data):
                other = package.joinpath(*name.decode().split(".")[1:])
                for file in (other.with_suffix(".py"), other / "__init__.py"):
                    if file.is_file():
                        contents.setdefault(file, file.read_bytes())
    found = hashlib.sha256()
    for path, data in sorted(contents.items()):
        found.update(f"{path.relative_to(package)} {len(data)}\0".encode() + data)
    return found.hexdigest()[:16]


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:  # another process forgets it, too
        return 0


def _bases() -> tuple[Path, ...]:
    """NUMBA_CACHE_DIR; where nobody set it, beside the sources, else with what the user's programs cache: a
    user of a container may have neither a name nor a home.
    """
    named = getattr(config, "CACHE_DIR", "")
    if named:
        return (Path(named),)
    beside = Path(__file__).parent / "__pycache__"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        return (beside,)
    return (beside, cache / "evac")


if (_home := kept_in(_bases(), Path(__file__).parents[1])) is not None:
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


vars(dispatcher)["FunctionCache"] = _Kept


def kernel(function: Function) -> Function:
    """Compile and cache a function that allocates nothing."""
    return _compiled(function, _UNCOUNTED)


def allocating_kernel(function: Function) -> Function:
    """Compile and cache a function that makes an array, or a view that outlives it."""
    return _compiled(function, _COUNTED)


def unlocked_kernel(function: Function) -> Function:
    """As `kernel`, without the interpreter's lock, so that other threads go on. For what takes far longer
    than the 5 ms that it may wait for the lock afterwards.
    """
    return _compiled(function, {"nogil": True, **_UNCOUNTED})


def vector_kernel(function: Function) -> Function:
    """As `kernel`, for plain loops over floats: a division by zero is not asked for, which would keep the
    processor from doing several at once.
    """
    return _compiled(function, {"error_model": "numpy", **_UNCOUNTED})


def inner(function: Function) -> Function:
    """A kernel that only kernels call: without a way in from Python it compiles much faster."""
    return _compiled(function, _INNER | _UNCOUNTED)


def allocating_inner(function: Function) -> Function:
    """As `inner`, for the few that make arrays."""
    return _compiled(function, _INNER | _COUNTED)


def spliced(function: Function) -> Function:
    """A part of the one or two kernels that call it, never compiled by itself. For what calls most of the
    others: a kernel is optimised together with all that it calls, so each such step costs all of them again.
    """
    decorate: Any = njit(inline="always")
    part: Function = decorate(function)
    return part


def _compiled(function: Function, options: Mapping[str, Any]) -> Function:
    decorate: Any = njit(**{"cache": True, **options})
    compiled: Function = by_type(decorate(function))
    return compiled


def by_type(compiled: Any) -> Any:
    """The same compiled function, compiled once for all whole numbers that kernels pass to it.

    numba by itself compiles it anew for each constant that a kernel passes, and for whole numbers of fewer
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
