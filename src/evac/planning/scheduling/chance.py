"""A small seeded generator for the kernels: splitmix64, so that a seed means the same numbers on every
machine.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import kernel

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


@kernel
def mixed(value: np.uint64) -> np.uint64:
    """The value with its 64 bits stirred."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)


@kernel
def below(state: NDArray[np.uint64], limit: int) -> int:
    """A number in 0..limit-1 (limit under 2^31); advances `state`, an array of one word."""
    state[0] += _STEP
    return int(np.int64(((mixed(state[0]) >> _S32) * np.uint64(limit)) >> _S32))
