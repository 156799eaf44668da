"""Other members of the same data set, asked all at once and briefly: does one of them take writes?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from evac.drivers.parameters import many, whole
from evac.drivers.port import Action
from evac.drivers.postgres.facts import PostgresFacts, read_facts
from evac.drivers.postgres.link import Member, linked, member_of
from evac.drivers.store_driver import ANSWER_MS, CONNECT_MS, takes_connections
from evac.model.errors import ActionError, Permanent

ANSWER_S: Final = ANSWER_MS / 1_000


@dataclass(frozen=True, slots=True)
class Peer:
    """facts: None of one that is silent."""

    member: Member
    facts: PostgresFacts | None = None


def peers_of(action: Action) -> tuple[Member, ...]:
    """Those that the parameters name: `peers` and `copies` (host:port or name=host:port), `old_host`,
    `primary_host`.
    """
    own = member_of(action, "candidate")
    found = [
        member_of(action, prefix) for prefix in ("old", "primary") if f"{prefix}_host" in action.parameters
    ]
    for entry in (*many(action.parameters, "peers"), *many(action.parameters, "copies")):
        host, _, port = entry.rpartition("=")[2].rpartition(":")
        if not host or not port.isdigit():
            raise Permanent("setting-wrong", f"peers: {entry[:80]!r} is not host:port")
        found.append(Member(host, int(port), own.user, own.password, own.dbname))
    unique = {peer.address: peer for peer in found if peer.address != own.address}
    return tuple(unique.values())


async def ask_peers(action: Action) -> tuple[Peer, ...]:
    """All of them, as they answer. Parameter `peer_ms`: how long a connection may take."""
    connect_s = whole(action.parameters, "peer_ms", CONNECT_MS, 60_000) / 1_000

    async def ask(peer: Member) -> Peer:
        if not await takes_connections(peer.host, peer.port, connect_s):
            return Peer(peer)
        try:
            async with linked(peer, ANSWER_S, ANSWER_S) as link:
                return Peer(peer, await read_facts(link))
        except ActionError:
            return Peer(peer)

    return tuple(await asyncio.gather(*(ask(peer) for peer in peers_of(action))))


def writable_of(peers: Iterable[Peer], system: str) -> list[str]:
    """Addresses of those that answer as writable primaries of the same data."""
    return [
        one.member.address
        for one in peers
        if one.facts is not None and one.facts.writable and one.facts.system == system
    ]


def silent_of(peers: Iterable[Peer]) -> list[str]:
    """Addresses of those that do not answer."""
    return [one.member.address for one in peers if one.facts is None]
