"""Sends signed orders to the agent of a site, and turns its answers into values or errors."""

from __future__ import annotations

import secrets as randomness
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from evac.actions import process_signing, secrets
from evac.actions.http_calls import Answer, Caller, NotAnswered, NotReached, check_url
from evac.actions.port import Observed, Order
from evac.actions.secrets import Secret
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable

ERRORS: Final[Mapping[str, type[ActionError]]] = {
    "retryable": Retryable,
    "permanent": Permanent,
    "unknown": OutcomeUnknown,
}


CLOCK_CODES: Final = frozenset({"clock-skew", "agent-just-started"})
"""Refusals of an order for its time alone: nothing was done."""


class AgentClient:
    """Talks to agents. Each order has a fresh nonce and the agent's time; each answer must be signed for that
    nonce. An agent whose clock differs says so, signed, and is asked once more by its own.
    """

    def __init__(self) -> None:
        self._caller = Caller()
        self._ahead_ms: dict[str, int] = {}

    async def send(
        self, agent: str, secret: str, path: str, values: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """The agent's answer. secret: a reference. Raises `Retryable`, `Permanent`, `OutcomeUnknown`."""
        check_url(agent)
        key = secrets.resolve(secret)
        if len(key.reveal_bytes()) < process_signing.LEAST_KEY_BYTES:
            raise Permanent("secret-short", f"{key} is shorter than {process_signing.LEAST_KEY_BYTES} bytes")
        body = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
        found = await self._ask(agent, key, path, body, timeout_s)
        if self._learned(agent, found):
            found = await self._ask(agent, key, path, body, timeout_s)
        error = found.get("error")
        if isinstance(error, dict):
            raise _error(error)
        return found

    async def _ask(self, agent: str, key: Secret, path: str, body: bytes, timeout_s: float) -> dict[str, Any]:
        """One order, one answer. The agent's own errors are values."""
        nonce, at_ms = randomness.token_hex(16), max(0, _wall_ms() + self._ahead_ms.get(agent, 0))
        url = agent.rstrip("/") + path
        headers = {
            "Content-Type": "application/json",
            process_signing.TIMESTAMP: str(at_ms),
            process_signing.NONCE: nonce,
            process_signing.SIGNATURE: process_signing.order_signature(
                key, "POST", urlsplit(url).path, body, at_ms, nonce
            ),
        }
        try:
            answer = await self._caller.call("POST", url, body=body, headers=headers, timeout_s=timeout_s)
        except NotReached as error:
            raise Retryable("agent-unreachable", str(error)) from error
        except NotAnswered as error:
            raise OutcomeUnknown("agent-no-answer", str(error), "observe it first") from error
        return _understood(answer, key, nonce)

    def _learned(self, agent: str, found: Mapping[str, Any]) -> bool:
        """Whether an order was refused for its time, and the agent said, signed, what time it has."""
        error = found.get("error")
        if not isinstance(error, dict) or error.get("code") not in CLOCK_CODES:
            return False
        now_ms = error.get("now_ms")
        if isinstance(now_ms, bool) or not isinstance(now_ms, int):
            return False
        self._ahead_ms[agent] = now_ms - _wall_ms()
        return True

    async def close(self) -> None:
        await self._caller.close()


def order_values(order: Order) -> dict[str, Any]:
    """An order as the agent reads it."""
    return {
        "run": order.run, "step": order.step, "attempt": order.attempt, "token": order.token,
        "epoch": order.epoch, "reason": order.reason, "timeout_ms": int(order.timeout_s * 1_000),
        "key": order.key, "ticket": order.ticket, "dry_run": order.dry_run,
    }  # fmt: skip


def evidence_of(answer: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """The small plain values that an agent saw."""
    said = answer.get("evidence")
    if not isinstance(said, dict):
        return {}
    return {str(key): value for key, value in said.items() if isinstance(value, str | int | bool)}


def observed_of(answer: Mapping[str, Any]) -> Observed:
    """What an agent says of an action; anything but a clear word is unclear."""
    outcome = answer.get("outcome")
    if outcome == "done":
        return Observed("done", evidence_of(answer))
    return Observed("absent" if outcome == "absent" else "unclear", evidence_of(answer))


def _understood(answer: Answer, key: Secret, nonce: str) -> dict[str, Any]:
    """The values of an answer whose signature holds. A refusal without one is believed: nothing was done."""
    values = answer.values()
    said = answer.headers.get(process_signing.SIGNATURE.lower(), "")
    wanted = process_signing.answer_signature(key, answer.status, answer.body, nonce)
    if not process_signing.same(said, wanted):
        if answer.status in (401, 404, 405, 413):
            raise Permanent(
                "agent-refused", f"the agent answers {answer.status}", "check its key and address"
            )
        raise OutcomeUnknown("agent-answer", "an answer came that the agent did not sign", "observe it first")
    return values


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _error(said: Mapping[str, Any]) -> ActionError:
    kind = ERRORS.get(str(said.get("kind")), OutcomeUnknown)
    words = (str(said.get("code", "agent-error")), str(said.get("message", "")), str(said.get("hint", "")))
    if kind is Retryable:
        return Retryable(*words, after_ms=int(said.get("after_ms", 0)))
    return kind(*words)
