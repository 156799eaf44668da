"""Improvement within counted work: servers are filled anew, one after another, at moving prices.

A server gives up what it holds for what is worth more to it among its own and what is left over. What
it gave up is then left over itself, becomes dearer, and finds another server: chains of ejections of any
length, steered by prices instead of being searched. Prices move less and less; then high tiers take back
what they lost, and the last rounds accept only what is better tier by tier.
"""

from __future__ import annotations

from typing import Final

from evac.planning.packing import prices
from evac.planning.packing.construct import Packing, bare_positions, checks_of, settle_tiers
from evac.planning.packing.prices import Market

RISE: Final = 0.1
"""How fast (fifty times a round) the price of what is left over rises at first."""
FALL_PER_RISE: Final = 0.1
"""How fast, compared with that, the price of what is fully placed falls."""
CALM: Final = 0.8
"""How much slower prices move at the end of the moving rounds."""
MOVING_SHARE: Final = 0.85
ROUNDS_MAX: Final = 300
"""More rounds than this win nothing, however few servers there are."""
STRICT_ROUNDS_MAX: Final = 6


def improve(packing: Packing, market: Market, checks: int) -> None:
    """Improve in place until about `checks` tests of a service against a server are spent."""
    begin = checks_of(packing)
    _move(packing, market, int(checks * MOVING_SHARE))
    settle_tiers(packing, checks // 10)
    _tighten(packing, market, begin + checks)
    settle_tiers(packing, checks // 10)


def _move(packing: Packing, market: Market, checks: int) -> None:
    """Rounds in which a tier may lose for a while what it will take back."""
    begin = checks_of(packing)
    servers = bare_positions(packing.state)
    for _ in range(ROUNDS_MAX):
        spent = checks_of(packing) - begin
        if spent >= checks or not packing.left.any():
            return
        rise = RISE * (1.0 - CALM * spent / checks)
        prices.shuffle(servers, market.random)
        prices.refill_all(packing.state, market, servers, rise, rise * FALL_PER_RISE, False, checks - spent)


def _tighten(packing: Packing, market: Market, end: int) -> None:
    """Rounds in which nothing may be lost for the sake of a lower tier."""
    servers = bare_positions(packing.state)
    for _ in range(STRICT_ROUNDS_MAX):
        rest = end - checks_of(packing)
        if rest <= 0:
            return
        prices.shuffle(servers, market.random)
        if prices.refill_all(packing.state, market, servers, 0.02, 0.002, True, rest) == 0:
            return
