"""Other members of the same data set, asked all at once and briefly: does one of them take writes?"""

from __future__ import annotations

import asyncio

from evac.actions.data_peers import ANSWER_MS, CONNECT_MS, takes_connections
from evac.actions.given import many, whole
from evac.actions.port import Action
from evac.actions.postgres_facts import read_facts
from evac.actions.postgres_link import Member, linked, member_of
from evac.model.errors import ActionError, Permanent


def peers_of(action: Action) -> tuple[Member, ...]:
    """Those that the parameters name: `peers` (host:port or name=host:port), `old_host`, `primary_host`."""
    own = member_of(action, "candidate")
    found = [
        member_of(action, prefix) for prefix in ("old", "primary") if f"{prefix}_host" in action.parameters
    ]
    for entry in many(action.parameters, "peers"):
        host, _, port = entry.rpartition("=")[2].rpartition(":")
        if not host or not port.isdigit():
            raise Permanent("setting-wrong", f"peers: {entry!r} is not host:port")
        found.append(Member(host, int(port), own.user, own.password, own.dbname))
    unique = {peer.address: peer for peer in found if peer.address != own.address}
    return tuple(unique.values())


async def other_primaries(action: Action, system: str) -> tuple[list[str], list[str]]:
    """Addresses of peers that answer as writable primaries of the same data, and of those that are silent.
    Parameter `peer_ms`: how long a connection may take.
    """

    connect_s = whole(action.parameters, "peer_ms", CONNECT_MS, 60_000) / 1_000
    answer_s = ANSWER_MS / 1_000

    async def ask(peer: Member) -> tuple[str, str]:
        if not await takes_connections(peer.host, peer.port, connect_s):
            return peer.address, "silent"
        try:
            async with linked(peer, answer_s, answer_s) as link:
                facts = await read_facts(link)
        except ActionError:
            return peer.address, "silent"
        return peer.address, "writable" if facts.writable and facts.system == system else "harmless"

    answers = await asyncio.gather(*(ask(peer) for peer in peers_of(action)))
    return (
        [address for address, said in answers if said == "writable"],
        [address for address, said in answers if said == "silent"],
    )
