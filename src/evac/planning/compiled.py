"""The decorators of kernels that take many tables, and why they are not plain njit.

A board or a state is a tuple of some thirty arrays. By default numba counts references to each of them on
each call and field access, which costs 0.7 to 1.4 microseconds a time, up to a hundred times the work
itself. Kernels that allocate nothing need no counting: their callers hold the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from numba import njit
from numba.core.options import DefaultOptions

Function = TypeVar("Function", bound=Callable[..., Any])

# A switch of numba that its manual does not name: where a version lacks it, kernels are slower, not wrong.
# Both values are stated, as a kernel without one takes that of the kernel that calls it first.
_KNOWN: Final = hasattr(DefaultOptions, "_nrt")
_UNCOUNTED: Final[dict[str, bool]] = {"_nrt": False} if _KNOWN else {}
_COUNTED: Final[dict[str, bool]] = {"_nrt": True} if _KNOWN else {}
_INNER: Final[dict[str, bool]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(function: Function) -> Function:
    """Compile and cache a function that allocates nothing."""
    return _compiled(function, _UNCOUNTED)


def allocating_kernel(function: Function) -> Function:
    """Compile and cache a function that makes an array, or a view that outlives it."""
    return _compiled(function, _COUNTED)


def inner(function: Function) -> Function:
    """A kernel that only kernels call: without a way in from Python it compiles much faster."""
    return _compiled(function, _INNER | _UNCOUNTED)


def allocating_inner(function: Function) -> Function:
    """As `inner`, for the few that make arrays."""
    return _compiled(function, _INNER | _COUNTED)


def _compiled(function: Function, options: Mapping[str, Any]) -> Function:
    decorate: Any = njit(**{"cache": True, **options})
    compiled: Function = decorate(function)
    return compiled
