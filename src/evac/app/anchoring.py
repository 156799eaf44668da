"""The heads of journals that agents of other sites keep: asked for when a journal is to be proved."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from evac import estate as estates
from evac.actions.peers import PLAIN_HINT, Peer, peer_of, plain_problem
from evac.actions.remote import AgentAnchors
from evac.actions.tls import client_context
from evac.model.errors import ActionError, NotAllowed, Unavailable
from evac.model.estate import Estate
from evac.store.anchors import Anchor

ASK_S: Final = 3.0


AgentAt = tuple[str, str, Peer]
"""URL, reference of the key, how TLS is spoken."""


def agents_of(estate: Estate) -> dict[str, AgentAt]:
    """Site -> how to reach its agent, by the estate's endpoints and the environment. Raises InvalidInput."""
    peer = peer_of()
    found: dict[str, AgentAt] = {}
    for endpoint in estate.endpoints:
        if endpoint.driver == "process" and "agent" in endpoint.settings:
            secret = str(endpoint.settings.get("secret", ""))
            found[endpoint.at] = (str(endpoint.settings["agent"]), secret, peer)
    return found


def check_agents(estate: Estate) -> None:
    """Raises NotAllowed where agents of other machines would be asked in the clear, InvalidInput for
    certificates of ours that cannot be used.
    """
    found = agents_of(estate)
    problems = {plain_problem(url, peer) for url, _, peer in found.values()} - {""}
    if problems:
        raise NotAllowed("agent-plain", "; ".join(sorted(problems)), PLAIN_HINT)
    if any(url.startswith("https:") for url, _, _ in found.values()):
        client_context(next(iter(found.values()))[2].files)


async def heads_of(path: str, stream: str, generation: int = 0) -> list[Anchor]:
    """Every head of a journal of this generation that an agent of this estate kept. Raises Unavailable where
    none answers.
    """
    found: list[Anchor] = []
    silent: list[str] = []
    agents = agents_of(estates.load(Path(path)))
    for site, found_at in sorted(agents.items()):
        client = AgentAnchors(*found_at)
        try:
            for row in await client.heads(stream, ASK_S, generation):
                found.append(Anchor(stream, int(row["segment"]), int(row["records"]), str(row["hash"])))
        except ActionError:
            silent.append(site)
        finally:
            await client.close()
    if agents and len(silent) == len(agents):
        raise Unavailable(f"no agent answers: {', '.join(silent)}")
    return found
