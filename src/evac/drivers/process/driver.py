"""Work done through the agent of a site: units of its services, any driver's action close to the system it
changes, and the agent's permits, anchors and generation.

A unit's command is in the agent's own configuration; an order can name a unit, never a command. Secret
references are sent unchanged and resolved by the agent; secrets are never sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final

from evac.drivers import parameters as given
from evac.drivers.capabilities import AnswersProbe, ProbeReport, ReportsReplicas, RunsUnits, Verifies
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.process import client
from evac.drivers.process.client import HERE, AgentAt, AgentClient, AgentPeer, Lines
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.generation import GENERATION_MOST
from evac.net.http_calls import Prober

ACT_PATH: Final = "/v1/act"
PERMIT_PATH: Final = "/v1/permit"
ANCHOR_PATH: Final = "/v1/anchors"
HEADS_PATH: Final = "/v1/anchors/heads"
_OLD_MARK: Final = frozenset({"mark-unknown", "permit-late"})
"""The agent, or its machine, was restarted since; or no permit was sent for a whole one."""


class RemoteDriver:
    """A driver with the given name and verbs, run by an agent. name: `postgres@pangyo` is `postgres` in
    pangyo's agent.
    """

    def __init__(self, name: str, verbs: frozenset[Verb], agent: AgentAt, peer: AgentPeer = HERE) -> None:
        self.name = name
        self._local = name.partition("@")[0]
        self.verbs = verbs
        self._agent = agent
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
        return await self._client.send(self._agent, ACT_PATH, values, order.timeout_s)


class AgentPermits:
    """Renews, at one agent, the permission of its site to be the primary of stores.

    A permit is measured from the agent's own last `mark`, which was issued before this call: a delayed call
    never grants more time than its sender assumes.
    """

    def __init__(self, agent: AgentAt, peer: AgentPeer = HERE) -> None:
        self._agent = agent
        self._client = AgentClient(peer)
        self._marks: dict[str, str] = {}

    async def renew(
        self, store: str, epoch: int, ttl_ms: int, token: int, timeout_s: float
    ) -> dict[str, Any]:
        """Grant `ttl_ms` from the last mark; fetches a new one first if there is none, or it is too old.
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
        """Stop the watch over a store: nothing is fenced when permits stop. Raises `ActionError`."""
        return await self._permit(store, epoch, 0, token, timeout_s, "release")

    async def resume(
        self, units: Collection[str], stores: Collection[str], token: int, timeout_s: float
    ) -> Collection[str]:
        """Let these units, and those of these stores, run again after a restart of the agent; return those it
        still holds. Raises `ActionError`.
        """
        values = {"what": "resume", "units": sorted(units), "stores": sorted(stores), "token": token}
        answer = await self._client.send(self._agent, PERMIT_PATH, values, timeout_s)
        held = answer.get("held", ())
        return [str(name) for name in held] if isinstance(held, list) else ()

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
        answer = await self._client.send(self._agent, PERMIT_PATH, values, timeout_s)
        self._marks[store] = str(answer.get("mark", ""))
        return answer


class AgentAnchors:
    """Stores heads of journals at an agent of another site, and reads them back."""

    def __init__(self, agent: AgentAt, peer: AgentPeer = HERE) -> None:
        self._agent = agent
        self._client = AgentClient(peer)

    async def put(
        self, stream: str, segment: int, records: int, digest: str, timeout_s: float, generation: int = 0
    ) -> Mapping[str, Any]:
        """Raise `Permanent` if the agent knows a later head, a different one at this position, or a newer
        generation.
        """
        values = {
            "stream": stream,
            "segment": segment,
            "records": records,
            "hash": digest,
            "generation": generation,
        }
        return await self._client.send(self._agent, ANCHOR_PATH, values, timeout_s)

    async def heads(self, stream: str, timeout_s: float, generation: int = 0) -> list[Mapping[str, Any]]:
        """The agent's heads of a stream in a generation, oldest first. Raises `ActionError`."""
        values = {"stream": stream, "generation": generation}
        answer = await self._client.send(self._agent, HEADS_PATH, values, timeout_s)
        found = answer.get("anchors", [])
        return [one for one in found if isinstance(one, dict)]

    async def close(self) -> None:
        await self._client.close()


GENERATION_PATH: Final = "/v1/generation"


class AgentGenerations:
    """One agent."""

    def __init__(self, agent: AgentAt, peer: AgentPeer = HERE) -> None:
        self._agent = agent
        self._client = AgentClient(peer)

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str, int | None]:
        """(newest generation, who opened it, highest token that the agent has obeyed), after announcing ours.
        An older agent reports no token, which is 0; None if what it reports is no token: what it says about
        the generation counts all the same. Raises `ActionError`.
        """
        values = {"generation": generation, "opener": opener}
        answer = await self._client.send(self._agent, GENERATION_PATH, values, timeout_s)
        told = answer.get("token", 0)
        is_token = isinstance(told, int) and not isinstance(told, bool) and told >= 0
        token = told if is_token else None
        return _number(answer.get("generation")), str(answer.get("opener", "")), token

    async def known(self, timeout_s: float) -> tuple[int, int]:
        """(newest generation, highest token) that the agent has obeyed; announces nothing. Raises
        `ActionError`.
        """
        number, _, token = await self.ask(0, "", timeout_s)
        if token is None:
            raise OutcomeUnknown("agent-answer", "the agent does not report which token it has obeyed")
        return number, token

    async def close(self) -> None:
        await self._client.close()


def _number(found: Any) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= GENERATION_MOST:
        raise OutcomeUnknown("agent-answer", "the agent does not report which generation it knows")
    return found


VERBS: Final[frozenset[Verb]] = frozenset({"start", "stop", "scale", "verify", "boot"})
PATH: Final = "/v1/unit"
HEALTH_PATH: Final = "/v1/health"
SLACK_S: Final = 0.25
"""The agent's deadline is this much before the order's, so that its response still arrives."""
REPLICAS_MOST: Final = 100_000
_PAUSE_S: Final = 0.1


class ProcessDriver(RunsUnits, ReportsReplicas, Verifies, AnswersProbe):
    """Sends orders for one unit to one agent."""

    name = "process"
    verbs = VERBS

    def __init__(self, peer: AgentPeer = HERE) -> None:
        self._client = AgentClient(peer)
        self._prober, self._lines = Prober(), Lines(peer)

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            answer = await self._send("check", action, order, order.timeout_s)
        except ActionError as error:
            return client.not_checked(error)
        return Checked(tuple(str(words) for words in answer.get("problems", ())), client.evidence_of(answer))

    async def execute(self, action: Action, order: Order) -> Evidence:
        return await self._do(action, order)

    async def undo(self, action: Action, order: Order) -> Evidence:
        back = _reversed(action)
        if action.verb in ("scale", "start") and "from_replicas" in action.parameters and not order.dry_run:
            await self._refuse_if_moved_on(action, back, order)
        return await self._do(back, order)

    async def _refuse_if_moved_on(self, action: Action, back: Action, order: Order) -> None:
        """Raise `Permanent` if another step has scaled the unit since, which an undo would revert."""
        seen = client.evidence_of(await self._send("observe", action, order, order.timeout_s))
        wanted = seen.get("wanted")
        if wanted not in (_replicas(action), _replicas(back)):
            raise Permanent(
                "undo-moved-on",
                f"{action.target}: another step has since requested {wanted}",
                "undo that step first",
            )

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            answer = await self._send("observe", action, order, order.timeout_s)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})
        return client.observed_of(answer)

    async def report_replicas(self, action: Action, timeout_s: float, token: int) -> int | None:
        """None also while the agent holds the unit, because nothing of it is restarted then, and from agents
        of versions that do not say whether someone set the number.
        """
        order = Order("", "observe", 1, token, 0, "", timeout_s, "observe")
        answer = await self._send("observe", action, order, timeout_s)
        wanted = client.evidence_of(answer).get("wanted")
        if answer.get("set") is not True:
            return None
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted <= REPLICAS_MOST:
            raise OutcomeUnknown("agent-answer", f"the agent does not say how many of {action.target} run")
        return wanted

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """Any response of the site's agent below 500 counts. A certificate that is not trusted, on either
        side, says nothing about its site.
        """
        url = given.text(action.settings, "agent").rstrip("/") + HEALTH_PATH
        problem = await self._prober.problem(url, self._lines.to(url))
        return ProbeReport(not problem, problem)

    async def close(self) -> None:
        await self._client.close()
        await self._prober.close()

    async def _do(self, action: Action, order: Order) -> Evidence:
        """Send the order once, then poll until as many instances as wanted pass their check."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.timeout_s
        answer = await self._send("execute", action, order, order.timeout_s)
        while not order.dry_run and answer.get("outcome") != "done":
            left = deadline - loop.time()
            if left < 3 * _PAUSE_S:
                raise OutcomeUnknown("unit-not-ready", f"{action.target}: {_why(answer)}", "observe it first")
            await asyncio.sleep(_PAUSE_S)
            answer = await self._seen(action, order, deadline - loop.time())
        return client.evidence_of(answer)

    async def _seen(self, action: Action, order: Order, timeout_s: float) -> dict[str, Any]:
        try:
            return await self._send("observe", action, order, timeout_s)
        except Retryable as error:
            raise OutcomeUnknown(error.code, error.message, error.hint) from error

    async def _send(self, what: str, action: Action, order: Order, timeout_s: float) -> dict[str, Any]:
        if action.verb not in VERBS:
            raise Permanent("verb-unknown", f"process cannot {action.verb}")
        ordered = client.order_values(order)
        ordered["timeout_ms"] = int(max(0.05, timeout_s - SLACK_S) * 1_000)
        values = {
            "what": what,
            "verb": action.verb,
            "unit": given.text(action.settings, "unit"),
            "replicas": _replicas(action),
            "order": ordered,
        }
        url, secret = given.text(action.settings, "agent"), given.text(action.settings, "secret")
        return await self._client.send(AgentAt(action.at, url, secret), PATH, values, timeout_s)


def _replicas(action: Action) -> int:
    """Number of instances; -1: as in the agent's configuration."""
    if action.verb == "stop":
        return 0
    key = "expect" if action.verb == "verify" and "expect" in action.parameters else "replicas"
    if action.verb == "scale":
        return given.whole(action.parameters, key, most=REPLICAS_MOST)
    if action.parameters.get(key) is None:
        return -1
    return given.whole(action.parameters, key, most=REPLICAS_MOST)


def _reversed(action: Action) -> Action:
    """The action that restores the previous state. For a scale that is `from_replicas`."""
    parameters = dict(action.parameters)
    if action.verb in ("start", "boot", "scale") and "from_replicas" in parameters:
        parameters["replicas"] = given.whole(parameters, "from_replicas", most=REPLICAS_MOST)
        return Action("scale", action.target, action.driver, action.at, action.settings, parameters)
    if action.verb in ("start", "boot"):
        return Action("stop", action.target, action.driver, action.at, action.settings, {})
    if action.verb == "stop":
        parameters.pop("replicas", None)  # a stop takes none
        if "from_replicas" in parameters:
            parameters["replicas"] = parameters["from_replicas"]
        return Action("start", action.target, action.driver, action.at, action.settings, parameters)
    raise Permanent("undo-unknown", f"there is no record of the state before the {action.verb}")


def _why(answer: dict[str, Any]) -> str:
    return str(client.evidence_of(answer).get("why", "it was not ready in time"))
