"""The generation of a store, and its place in a fencing token. Pure.

A store that replaces a lost one counts its tokens from the start. So its generation is in the high bits,
before the count, and anything that remembers the highest token it has obeyed refuses the lost store's
leader without any further rule. 40 bits hold every revision that a store will count; 4,000 generations
above them stay below 2^52, so that every reader of JSON and Lua represents a token exactly.
"""

from __future__ import annotations

from typing import Final

GENERATION_BITS: Final = 40
GENERATION_MOST: Final = 4_000
EPOCH_BITS: Final = 32
SET_UP_TOKEN: Final = 1
"""Of orders given before any controller has led. No lease has it: the count of a store begins above it."""
SUPERSEDED: Final = "superseded"
"""Code of every refusal of an order, an anchor or a permit of an older generation."""


def generation_of(token: int) -> int:
    """The generation that a token carries."""
    return token >> GENERATION_BITS


def token_in(generation: int, token: int) -> int:
    """The token of a lease, as orders carry it. A store whose count began in its generation already has
    it.
    """
    return token if generation_of(token) >= generation else (generation << GENERATION_BITS) + token


def epoch_in(generation: int, epoch: int) -> int:
    """The epoch with which a data set continues in a new generation: above anything that an older one can
    reach.
    """
    return (generation << EPOCH_BITS) + (epoch & ((1 << EPOCH_BITS) - 1))
