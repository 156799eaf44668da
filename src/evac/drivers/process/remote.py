"""Lets the agent of a site do any action: a driver whose hand is there, near the system that it changes.

References of secrets travel as they are and are resolved by the agent; no secret ever does. Also the clients
of the agent's permits and anchors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.process import client
from evac.drivers.process.client import AgentClient
from evac.drivers.process.peers import HERE, Peer
from evac.model.errors import ActionError, OutcomeUnknown
from evac.model.generation import GENERATION_MOST

ACT_PATH: Final = "/v1/act"
PERMIT_PATH: Final = "/v1/permit"
ANCHOR_PATH: Final = "/v1/anchors"
HEADS_PATH: Final = "/v1/anchors/heads"
_OLD_MARK: Final = frozenset({"mark-unknown", "permit-late"})
"""The agent, or its machine, was started anew since; or no permit was sent for a whole one."""


class RemoteDriver:
    """A driver of the given name and verbs, done by an agent. name: `postgres@pangyo` is the agent's own
    `postgres`, by the hand of pangyo. agent: its URL; secret: a reference.
    """

    def __init__(self, name: str, verbs: frozenset[Verb], agent: str, secret: str, peer: Peer = HERE) -> None:
        self.name = name
        self._local = name.partition("@")[0]
        self.verbs = verbs
        self._agent, self._secret = agent, secret
        self._client = AgentClient(peer)

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            answer = await self._send("check", action, order)
        except ActionError as error:
            return client.not_checked(error)
        return client.checked_of(answer)

    async def execute(self, action: Action, order: Order) -> Evidence:
        return client.evidence_of(await self._send("execute", action, order))

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            answer = await self._send("observe", action, order)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200], "code": error.code})
        return client.observed_of(answer)

    async def undo(self, action: Action, order: Order) -> Evidence:
        return client.evidence_of(await self._send("undo", action, order))

    async def close(self) -> None:
        await self._client.close()

    async def _send(self, what: str, action: Action, order: Order) -> dict[str, Any]:
        values = {
            "what": what,
            "action": {
                "verb": action.verb,
                "target": action.target,
                "driver": self._local,
                "at": action.at,
                "settings": dict(action.settings),
                "parameters": dict(action.parameters),
            },
            "order": client.order_values(order),
        }
        return await self._client.send(self._agent, self._secret, ACT_PATH, values, order.timeout_s)


class AgentPermits:
    """Renews, at one agent, the permission of its site to be the primary of stores.

    A permit counts from the agent's own last `mark`, which was handed out before this call: a call that was
    held up on its way never grants more time than its sender believes.
    """

    def __init__(self, agent: str, secret: str, peer: Peer = HERE) -> None:
        self._agent, self._secret = agent, secret
        self._client = AgentClient(peer)
        self._marks: dict[str, str] = {}

    async def renew(
        self, store: str, epoch: int, ttl_ms: int, token: int, timeout_s: float
    ) -> dict[str, Any]:
        """Grants `ttl_ms` from the last mark; fetches a new one first where there is none, or it is too old.
        Raises `ActionError`.
        """
        if store in self._marks:
            try:
                return await self._permit(store, epoch, ttl_ms, token, timeout_s, "grant")
            except ActionError as error:
                if error.code not in _OLD_MARK:
                    raise
        await self._permit(store, epoch, 0, token, timeout_s, "mark")
        return await self._permit(store, epoch, ttl_ms, token, timeout_s, "grant")

    async def release(self, store: str, epoch: int, token: int, timeout_s: float) -> dict[str, Any]:
        """Ends the watch over a store: nothing is fenced when no more permits come. Raises `ActionError`."""
        return await self._permit(store, epoch, 0, token, timeout_s, "release")

    async def close(self) -> None:
        await self._client.close()

    async def _permit(
        self, store: str, epoch: int, ttl_ms: int, token: int, timeout_s: float, what: str
    ) -> dict[str, Any]:
        values = {
            "what": what,
            "store": store,
            "epoch": epoch,
            "ttl_ms": ttl_ms,
            "token": token,
            "mark": self._marks.get(store, ""),
        }
        answer = await self._client.send(self._agent, self._secret, PERMIT_PATH, values, timeout_s)
        self._marks[store] = str(answer.get("mark", ""))
        return answer


class AgentAnchors:
    """Leaves the heads of journals at an agent of another site, and reads them back."""

    def __init__(self, agent: str, secret: str, peer: Peer = HERE) -> None:
        self._agent, self._secret = agent, secret
        self._client = AgentClient(peer)

    async def put(
        self, stream: str, segment: int, records: int, digest: str, timeout_s: float, generation: int = 0
    ) -> Mapping[str, Any]:
        """Raises `Permanent` when the agent knows a later head, another one at this place, or a newer
        generation.
        """
        values = {
            "stream": stream,
            "segment": segment,
            "records": records,
            "hash": digest,
            "generation": generation,
        }
        return await self._client.send(self._agent, self._secret, ANCHOR_PATH, values, timeout_s)

    async def heads(self, stream: str, timeout_s: float, generation: int = 0) -> list[Mapping[str, Any]]:
        """What the agent has of a stream of a generation, oldest first. Raises `ActionError`."""
        values = {"stream": stream, "generation": generation}
        answer = await self._client.send(self._agent, self._secret, HEADS_PATH, values, timeout_s)
        found = answer.get("anchors", [])
        return [one for one in found if isinstance(one, dict)]

    async def close(self) -> None:
        await self._client.close()


GENERATION_PATH: Final = "/v1/generation"


class AgentGenerations:
    """One agent. agent: its URL; secret: a reference."""

    def __init__(self, agent: str, secret: str, peer: Peer = HERE) -> None:
        self._agent, self._secret = agent, secret
        self._client = AgentClient(peer)

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str]:
        """(newest generation, who opened it), after it was told of ours. Raises `ActionError`."""
        values = {"generation": generation, "opener": opener}
        answer = await self._client.send(self._agent, self._secret, GENERATION_PATH, values, timeout_s)
        return _number(answer.get("generation")), str(answer.get("opener", ""))

    async def close(self) -> None:
        await self._client.close()


def _number(found: Any) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= GENERATION_MOST:
        raise OutcomeUnknown("agent-answer", "the agent does not say which generation it knows")
    return found
