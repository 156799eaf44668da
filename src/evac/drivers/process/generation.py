"""Tells an agent of a generation, and asks it for the newest one that it knows."""

from __future__ import annotations

from typing import Any, Final

from evac.drivers.process.client import AgentClient
from evac.drivers.process.peers import HERE, Peer
from evac.model.errors import OutcomeUnknown
from evac.model.generation import GENERATION_MOST

PATH: Final = "/v1/generation"


class AgentGenerations:
    """One agent. agent: its URL; secret: a reference."""

    def __init__(self, agent: str, secret: str, peer: Peer = HERE) -> None:
        self._agent, self._secret = agent, secret
        self._client = AgentClient(peer)

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str]:
        """(newest generation, who opened it), after it was told of ours. Raises `ActionError`."""
        values = {"generation": generation, "opener": opener}
        answer = await self._client.send(self._agent, self._secret, PATH, values, timeout_s)
        return _number(answer.get("generation")), str(answer.get("opener", ""))

    async def close(self) -> None:
        await self._client.close()


def _number(found: Any) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= GENERATION_MOST:
        raise OutcomeUnknown("agent-answer", "the agent does not say which generation it knows")
    return found
