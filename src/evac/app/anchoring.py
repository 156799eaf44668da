"""The heads of journals that agents of other sites keep: asked for when a journal is to be proved."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from evac import estate as estates
from evac.actions.remote import AgentAnchors
from evac.model.errors import ActionError, Unavailable
from evac.model.estate import Estate
from evac.store.anchors import Anchor

ASK_S: Final = 3.0


def agents_of(estate: Estate) -> dict[str, tuple[str, str]]:
    """Site -> (URL, reference of the key) of its agent, from the estate's endpoints."""
    found: dict[str, tuple[str, str]] = {}
    for endpoint in estate.endpoints:
        if endpoint.driver == "process" and "agent" in endpoint.settings:
            found[endpoint.at] = (str(endpoint.settings["agent"]), str(endpoint.settings.get("secret", "")))
    return found


async def heads_of(path: str, stream: str, generation: int = 0) -> list[Anchor]:
    """Every head of a journal of this generation that an agent of this estate kept. Raises Unavailable where
    none answers.
    """
    found: list[Anchor] = []
    silent: list[str] = []
    agents = agents_of(estates.load(Path(path)))
    for site, (url, secret) in sorted(agents.items()):
        client = AgentAnchors(url, secret)
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
