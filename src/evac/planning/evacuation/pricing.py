"""What a generation costs: the objective, and the value by which the search compares generations.

Capacity of unknown size takes whatever starts there, but no one knows whether it holds that. So a milestone
that depends on it costs the search as much as one that never holds, and its time comes on top: no certain one
is as bad. One that is missing for certain costs twice as much, so what may hold is still better than nothing.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final

from evac.planning.compiled import inner, kernel
from evac.planning.evacuation.board import NEVER, Board
from evac.planning.evacuation.doubts import mark_doubts

GRACE_FACTOR: Final = 16
"""Weight of a tick after the grace relative to one before, if there is a grace."""


@inner
def cost(board: Board, at: int) -> int:
    """Cost of one unit of weight if its milestone holds from a tick on, as the search counts it."""
    until = min(at, board.horizon)
    return until + (GRACE_FACTOR * max(0, until - board.grace) if board.grace else 0)


@inner
def outage(board: Board, since: int, back: int, gone: int) -> int:
    """Ticks of [0, H) without a milestone that is missing from `since` to `back`, and from `gone` on."""
    horizon = board.horizon
    return min(horizon, max(0, min(back, horizon) - since) + horizon - min(gone, horizon))


@inner
def value(board: Board, since: int, back: int, gone: int) -> int:
    """Outage as the search counts it: ticks within the grace count a little."""
    plain = outage(board, since if since > board.grace else 0, back, gone)
    return plain if board.grace == 0 else GRACE_FACTOR * outage(board, since, back, gone) + plain


@kernel
def objective(board: Board) -> int:
    """Weighted person-ticks of a finished generation: the Z of the model."""
    total = 0
    for s in board.service:
        total += s.base_weight * outage(board, s.base_since, s.base_at, s.base_shed_at)
        total += s.top_weight * outage(board, s.top_since, s.top_at, s.top_shed_at)
    return total


@inner
def extra_for_doubt(board: Board) -> int:
    """What a generation with unknown facts costs beyond its times: each milestone that is in doubt or missing
    costs once more what one costs that never holds. So whatever is certain is worth more.
    """
    mark_doubts(board)
    total, whole = 0, value(board, 0, NEVER, NEVER)
    for s in board.service:
        base = s.base_doubt or s.base_at >= board.horizon or s.base_shed_at < board.horizon
        top = base or s.top_doubt or s.top_at >= board.horizon or s.top_shed_at < board.horizon
        total += whole * ((s.base_weight if base else 0) + (s.top_weight if top else 0))
    return total


@kernel
def price_of_doubt(board: Board) -> int:
    """The part of the value of the generation on the board that is for doubts; 0 if every fact is known."""
    return extra_for_doubt(board) if board.vague else 0
