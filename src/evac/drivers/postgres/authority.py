"""The highest fencing token and epoch a PostgreSQL member has obeyed, kept by the member itself.

It is a setting, `evac.authority`, written by ALTER SYSTEM: that works on standbys too, survives a restart
and a promotion, and never waits for a synchronous standby as a row in a table would. An advisory lock is
held from the comparison to the end of the change, so that two leaders never act on one member at once; the
lock ends with its session, even if evac is killed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from evac.drivers.parameters import stale_token
from evac.drivers.port import Order
from evac.drivers.postgres.conninfo import literal
from evac.drivers.postgres.facts import PostgresFacts, read_facts
from evac.drivers.postgres.link import Link
from evac.model.errors import Permanent

LOCK = 0x65766163
"""`evac` in ASCII."""
LOCK_WAIT_S = 0.02


@dataclass(frozen=True, slots=True)
class Authority:
    """token and epoch of the last order obeyed; fence: the epoch for which this member was cut off, or 0."""

    token: int = 0
    epoch: int = 0
    fence: int = 0

    def text(self) -> str:
        return f"{self.token} {self.epoch} {self.fence}"


def parse_authority(text: str) -> Authority:
    """Raises `Permanent`: a record that cannot be read is never taken for none."""
    try:
        token, epoch, fence = (int(part) for part in text.split())
    except ValueError as error:
        raise Permanent("authority-unreadable", "evac.authority of this member cannot be read") from error
    return Authority(token, epoch, fence)


def seen_authority(facts: PostgresFacts) -> Authority:
    """What the member has on its disk, whether reloaded or not."""
    return parse_authority(facts.authority) if facts.authority else Authority()


def refuse_stale(link: Link, seen: Authority, order: Order, *, own_hand: bool = False) -> None:
    """Raises `Permanent` for an order of an older leader, or for an epoch that is over. own_hand: a site that
    fences itself because its lease ran out has no leader's token, 0; its epoch counts all the same.
    """
    if order.token < seen.token and not (own_hand and order.token == 0):
        raise stale_token(link.member.address, seen.token, order)
    if order.epoch and order.epoch < seen.epoch:
        raise Permanent(
            "stale-epoch",
            f"{link.member.address} has seen epoch {seen.epoch}; {order.epoch} is over",
            "stop: the data set has moved on",
        )


@asynccontextmanager
async def alone(link: Link, order: Order, *, own_hand: bool = False) -> AsyncIterator[Authority]:
    """Nobody else of evac acts on this member until the end; the order is not of an older leader."""
    link.locked = True
    while not await link.value("SELECT pg_try_advisory_lock($1)", LOCK):
        await link.pause(LOCK_WAIT_S)
    seen = seen_authority(await read_facts(link))
    refuse_stale(link, seen, order, own_hand=own_hand)
    yield seen
    # The lock ends with the session, or is given back before another action gets the connection.


async def obey(link: Link, seen: Authority, order: Order, fence: int | None = None) -> Authority:
    """Records the order before the change it allows. fence: None keeps what is there."""
    now = Authority(
        max(order.token, seen.token), max(order.epoch, seen.epoch), seen.fence if fence is None else fence
    )
    if now != seen:
        # The server knows a setting with a prefix of ours only once this session has set it.
        await link.change(f"SET evac.authority = {literal(now.text())}")
        await link.change(f"ALTER SYSTEM SET evac.authority = {literal(now.text())}")
    return now
