"""A kernel as plain Python: the same code, on the same memory, for estates planned sooner than compiled.

Records of numpy answer an attribute in a microsecond, so a kernel does not work on arrays here but on views
of them: rows of a table are ctypes structures, columns are memoryviews. Both read and write the memory of the
array and give Python's own numbers, so that the answer is the one of the compiled kernel. What compiled code
does and Python does not, a kernel spells out: unsigned arithmetic that wraps goes through `np.uint64`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any, Final

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
    """The rows of a table; keeps the table, whose memory they are."""

    __slots__ = ("table",)

    def __init__(self, table: np.ndarray[Any, Any]) -> None:
        self.table = table
        rows = _structure(table.dtype) * len(table)
        super().__init__(rows.from_address(table.ctypes.data))


@lru_cache(maxsize=64)
def _structure(dtype: np.dtype[Any]) -> Any:
    return np.ctypeslib.as_ctypes_type(dtype)


def view(value: Any) -> Any:
    """What a plain kernel works on, for an argument of a compiled one."""
    if isinstance(value, np.ndarray):
        if value.dtype.names:
            return Records(value)
        return value.data if value.ndim == 1 else Grid(value)
    if isinstance(value, tuple):
        parts = [view(one) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.item() if isinstance(value, np.generic) else value


def result(value: Any) -> Any:
    """What a compiled kernel returns, for what a plain one does."""
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
    """The function among others of its kind: what `plain_of` gives for a global takes the place of it."""
    found = function.__globals__
    world = _WORLDS.get(id(found))
    if world is None:
        world = _WORLDS[id(found)] = dict(found)
        for name, value in found.items():
            world[name] = _Numpy if value is np else plain_of(value)
    return FunctionType(
        function.__code__, world, function.__name__, function.__defaults__, function.__closure__
    )
