"""The one decorator of the packer's kernels, and why it is not plain njit.

A `State` is a tuple of some thirty arrays. By default numba counts references to each of them on each call
and field access, which costs 0.7 to 1.4 microseconds a time, a hundred times the work itself. Kernels
that allocate nothing need no counting: their callers hold the arrays. `kernel` compiles without it.
A kernel that makes an array or a view that outlives it must be decorated by `allocating_kernel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.core.options import DefaultOptions

Function = TypeVar("Function", bound=Callable[..., Any])

# A switch of numba that its manual does not name: where a version lacks it, kernels are slower, not wrong.
_UNCOUNTED: dict[str, bool] = {"_nrt": False} if hasattr(DefaultOptions, "_nrt") else {}


def kernel(function: Function) -> Function:
    """Compile and cache a function that allocates nothing."""
    return _compiled(function, {"cache": True, **_UNCOUNTED})


def allocating_kernel(function: Function) -> Function:
    """Compile and cache a function that makes arrays."""
    return _compiled(function, {"cache": True})


def _compiled(function: Function, options: dict[str, Any]) -> Function:
    decorate: Any = njit(**options)
    compiled: Function = decorate(function)
    return compiled
