"""Decorators of kernels: compiled on first call, or plain Python where that is faster overall.

A board or a state is a tuple of some thirty arrays. By default numba counts references to each of them on
each call and field access, which costs 0.7 to 1.4 microseconds a time, up to a hundred times the work
itself. Kernels that allocate nothing need no counting: their callers hold the arrays.

Compiling takes about a minute, once; planning a few services takes seconds without it. Within `interpreted`,
kernels run as plain Python, with bit-identical results. numba is imported when the first kernel is compiled
or loaded, and not before.

Records of numpy answer an attribute in a microsecond, so a plain kernel does not work on arrays but on views
of them: rows of a table are ctypes structures, columns are memoryviews. Both read and write the array's
memory and return Python numbers, so that results equal those of the compiled kernel. A kernel spells out what
only compiled code does: wrapping unsigned arithmetic uses `np.uint64`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache, update_wrapper
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, Final, TypeVar

import numpy as np

_ALL_BITS: Final = 2**64 - 1


class Grid:
    """An array of two dimensions or more: a cell by its indices, a row by its number."""

    __slots__ = ("_array", "_cells", "_rows", "shape")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array, self.shape = array, array.shape
        self._cells = array.data
        self._rows = [view(row) for row in array]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        return self._cells[key] if type(key) is tuple else self._rows[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is tuple and type(key[-1]) is not slice:
            self._cells[key] = value
        else:
            self._array[key] = value.array() if isinstance(value, Grid) else value

    def array(self) -> np.ndarray[Any, Any]:
        """The array that this is a view of."""
        return self._array


class Records(list[Any]):
    """The rows of a table; keeps the table alive, because they use its memory."""

    __slots__ = ("table",)

    def __init__(self, table: np.ndarray[Any, Any]) -> None:
        self.table = table
        rows = _structure(table.dtype) * len(table)
        super().__init__(rows.from_address(table.ctypes.data))


@lru_cache(maxsize=64)
def _structure(dtype: np.dtype[Any]) -> Any:
    return np.ctypeslib.as_ctypes_type(dtype)


def view(value: Any) -> Any:
    """The view that a plain kernel gets for a compiled one's argument."""
    if isinstance(value, np.ndarray):
        if value.dtype.names:
            return Records(value)
        return value.data if value.ndim == 1 else Grid(value)
    if isinstance(value, tuple):
        parts = [view(one) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.item() if isinstance(value, np.generic) else value


_VIEWS_MOST: Final = 32
_VIEWS: Final[dict[int, tuple[Any, Any]]] = {}
"""Identity of a tuple -> the tuple, so that no other one gets that identity, and its view."""


def _view_of_argument(value: Any) -> Any:
    """The view of an argument. A board or state is viewed once, as many calls get the same one."""
    if not isinstance(value, tuple):
        return view(value)
    known = _VIEWS.get(id(value))
    if known is not None:
        return known[1]
    if len(_VIEWS) >= _VIEWS_MOST:
        _VIEWS.clear()
    made = view(value)
    _VIEWS[id(value)] = value, made
    return made


def result(value: Any) -> Any:
    """Converts a plain kernel's result to what a compiled one returns."""
    if isinstance(value, memoryview):
        return np.asarray(value)
    if isinstance(value, Grid):
        return value.array()
    if isinstance(value, tuple):
        return tuple(result(one) for one in value)
    return value


class _Numpy:
    """The part of numpy that kernels use, on views."""

    int64, int8, bool_, float64 = int, np.int8, np.bool_, float

    @staticmethod
    def uint64(value: int) -> int:
        return value & _ALL_BITS

    @staticmethod
    def zeros(shape: Any, dtype: Any = float) -> Any:
        return view(np.zeros(shape, dtype))

    @staticmethod
    def empty(shape: Any, dtype: Any = float) -> Any:
        return view(np.empty(shape, dtype))

    @staticmethod
    def full(shape: Any, value: Any, dtype: Any = None) -> Any:
        return view(np.full(shape, value, dtype))

    @staticmethod
    def array(values: Any, dtype: Any = None) -> Any:
        return view(np.array(values, dtype))

    @staticmethod
    def copy(values: Any) -> Any:
        return view(np.array(values))

    @staticmethod
    def argsort(values: Any, kind: Any) -> Any:
        return view(np.argsort(np.asarray(values), kind=kind))


_WORLDS: Final[dict[int, dict[str, Any]]] = {}


def plain_function(function: FunctionType, plain_of: Callable[[Any], Any]) -> Any:
    """A copy of the function whose globals are replaced by their `plain_of`."""
    found = function.__globals__
    world = _WORLDS.get(id(found))
    if world is None:
        world = _WORLDS[id(found)] = dict(found)
        for name, value in found.items():
            world[name] = _Numpy if value is np else plain_of(value)
    return FunctionType(
        function.__code__, world, function.__name__, function.__defaults__, function.__closure__
    )


__all__ = [
    "PROGRESS",
    "Kernel",
    "allocating_inner",
    "allocating_kernel",
    "allocating_unlocked_kernel",
    "fill",
    "inner",
    "interpreted",
    "kept_in",
    "kernel",
    "kernel_bases",
    "kernels_are_kept",
    "note_complete",
    "parallel_kernel",
    "prange",
    "unlocked_kernel",
]

Function = TypeVar("Function", bound=Callable[..., Any])

prange: Final = range
"""Trials of a parallel kernel; numba's own replaces it in compiled kernels."""

UNCOUNTED: Final[dict[str, Any]] = {"counted": False}
COUNTED: Final[dict[str, Any]] = {"counted": True}
_INNER: Final[dict[str, Any]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
PROGRESS: Final = "progress"
"""File in the folder of kernels with a byte for each compiled kernel that is in no file of its own."""
_OWN: Final = Path(__file__).parents[1]
_FOLDER: Final = "kernels-"
_COMPLETE: Final = "complete"
_ROOMS: Final = ("audit", "planning")
# A module without kernels imports this one as `compiled`, so that changing that module does not recompile
# kernels.
_HAS_KERNELS: Final = b"from evac.planning.compiled import"
_IMPORTED: Final = re.compile(rb"^from (evac(?:\.\w+)+) import", re.MULTILINE)

ALL: Final[list[Kernel]] = []
"""Every kernel of the modules imported so far."""


class _Now:
    """How kernels run in this process: permanently as plain Python if there is no compiler."""

    plain = find_spec("numba") is None


class Kernel:
    """One kernel. When another kernel calls it, numba treats it as the function that it compiles."""

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        update_wrapper(self, function)
        self.function: FunctionType = function  # type: ignore[assignment]
        self.options = options
        ALL.append(self)

    def __call__(self, *args: Any) -> Any:
        if _Now.plain:
            return result(self.plain(*map(_view_of_argument, args)))
        return self.compiled(*args)

    @cached_property
    def plain(self) -> Any:
        """The function that works on views and calls other plain kernels."""
        return plain_function(self.function, lambda one: one.plain if isinstance(one, Kernel) else one)

    @cached_property
    def compiled(self) -> Any:
        """numba's dispatcher."""
        from evac.planning.compiling import dispatcher

        return dispatcher(self.function, self.options)

    @property
    def _numba_type_(self) -> Any:
        return self.compiled._numba_type_


@contextmanager
def interpreted() -> Iterator[None]:
    """Kernels called inside run as plain Python, in every thread."""
    before, _Now.plain = _Now.plain, True
    try:
        yield
    finally:
        _Now.plain = before
        _VIEWS.clear()


def kernel(function: Function) -> Function:
    """Compiles and caches a function that allocates nothing."""
    return _kernel(function, UNCOUNTED)


def allocating_kernel(function: Function) -> Function:
    """Compiles and caches a function that makes an array, or a view that outlives it."""
    return _kernel(function, COUNTED)


def unlocked_kernel(function: Function) -> Function:
    """Like `kernel`, without the interpreter's lock, so that other threads continue. For work that takes far
    longer than the 5 ms it may wait for the lock afterwards.
    """
    return _kernel(function, {"nogil": True, **UNCOUNTED})


def allocating_unlocked_kernel(function: Function) -> Function:
    """Like `unlocked_kernel`, for a function that makes arrays."""
    return _kernel(function, {"nogil": True, **COUNTED})


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """Like `allocating_kernel`, for a loop over `prange` that uses all cores."""
    return _kernel(function, {"parallel": True, **COUNTED})


def inner(function: Function) -> Function:
    """A kernel called only by kernels: it has no entry point from Python, and becomes machine code only as a
    part of those that have one.
    """
    return _kernel(function, _INNER | UNCOUNTED)


def allocating_inner(function: Function) -> Function:
    """Like `inner`, for the few that make arrays."""
    return _kernel(function, _INNER | COUNTED)


def _kernel(function: Function, options: Mapping[str, Any]) -> Function:
    made: Any = Kernel(function, options)
    found: Function = made
    return found


@inner
def fill(values: Any, value: Any) -> None:
    """Sets every entry of a column to a value."""
    for k in range(len(values)):
        values[k] = value


def kept_in(bases: tuple[Path, ...], package: Path) -> Path | None:
    """The folder for kernels of this version of the sources, under the first base that this user, and no one
    else, can write to: its content is executed. None if there is none.

    numba recompiles a kernel when its own file changed, but keeps stale code compiled in from other files, so
    each version of the sources has its own folder. Of the older folders the newest stays: a running process
    may still read it while evac is updated.
    """
    name = _FOLDER + (_own_digest() if package == _OWN else _digest(package))
    for base in bases:
        folder, is_new = base / name, False
        try:
            is_new = not folder.is_dir()
            folder.mkdir(0o700, parents=True, exist_ok=True)  # another process may have made it just now
        except OSError:
            continue
        if not os.access(folder, os.W_OK) or not _is_ours(folder):
            continue
        if is_new:
            others = (one for one in base.glob(f"{_FOLDER}*") if one != folder and one.is_dir())
            for old in sorted(others, key=_changed_ns)[:-1]:
                shutil.rmtree(old, ignore_errors=True)
        return folder
    return None


def _is_ours(folder: Path) -> bool:
    """Whether only this user and root can have written to it."""
    told = folder.stat()
    return told.st_uid in (0, os.geteuid()) and not told.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(package: Path) -> str:
    """Digest of everything compiled into kernels: modules that have any, and those they import from."""
    contents: dict[Path, bytes] = {}
    for path in (path for room in _ROOMS for path in (package / room).rglob("*.py")):
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


@lru_cache(maxsize=1)
def _own_digest() -> str:
    """Of the sources that this process runs, also if they are replaced meanwhile. An audit asks for it often,
    and reading them takes a tenth of a second.
    """
    return _digest(_OWN)


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:  # another process forgets it, too
        return 0


def kernel_bases() -> tuple[Path, ...]:
    """NUMBA_CACHE_DIR; if unset, next to the sources, else in the user's cache: a user in a container may
    have neither a name nor a home.
    """
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return (Path(named),)
    beside = Path(__file__).parent / "__pycache__"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        return (beside,)
    return (beside, cache / "evac")


def kernels_are_kept() -> Path | None:
    """The folder that has every kernel compiled for these sources and this machine; or None."""
    name = _FOLDER + _own_digest()
    for base in kernel_bases():
        try:
            complete = (base / name / _COMPLETE).read_text("utf-8") == _machine()
            if complete and _is_ours(base / name):
                return base / name
        except OSError:
            continue
    return None


def note_complete() -> None:
    """Records in the folder that every kernel has been compiled, for `kernels_are_kept`."""
    folder = kept_in(kernel_bases(), _OWN)
    if folder is not None:
        with suppress(OSError):
            (folder / _COMPLETE).write_text(_machine(), "utf-8")


def _machine() -> str:
    """What machine code depends on apart from the sources: compiler, Python, processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    try:
        compiler = version("numba")
    except PackageNotFoundError:
        compiler = ""
    return hashlib.sha256(f"{compiler} {sys.version} {flags}".encode()).hexdigest()
