"""Contract of a system that lists its verbs (`does`): one URL, a POST for every request, JSON both ways.

what       changes something   responds 200 with
check      no                  {"outcome": "ready"}
observe    no                  {"outcome": "done"}, `absent` or `unclear`
execute    yes                 any JSON object; it is done once observe says so
undo       yes                 {"outcome": "done"}
role       no                  {"role": "primary"}, `replica`, `detached` or `none`

Other status codes mean the same as everywhere (see `driver`), with {"why": "..."} as the reason. A response
that does not follow the contract never counts as a yes. A verify is only observed.

Also here: signatures of Standard Webhooks, the body, and the meaning of status codes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final, Literal

import orjson

from evac.drivers import parameters
from evac.drivers.capabilities import RoleReport
from evac.drivers.http import DRIVER
from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.drivers.role_answer import role_from
from evac.drivers.spec import DOES
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net import secrets
from evac.net.http_calls import Answer, Caller, NotAnswered, NotReached, check_url
from evac.net.secrets import Secret

AGAIN: Final = frozenset({408, 425, 429, 503})
_KEPT: Final = 12
_OF_A_COPY: Final = ("host", "port", "name")
What = Literal["check", "observe", "execute", "undo", "role"]
CHANGES: Final[frozenset[What]] = frozenset({"execute", "undo"})
_FIRST_PAUSE_S: Final = 0.03
_PAUSE_S: Final = 0.25
_WHY_MAX: Final = 300


def signed_headers(secret: Secret | None, message_id: str, body: bytes, at_s: int) -> dict[str, str]:
    """Headers of Standard Webhooks (standardwebhooks.com, HMAC-SHA256, `v1`), and the idempotency key that
    makes a retry harmless. Without a secret nothing is signed.
    """
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{message_id}"',
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
    }
    if secret is not None:
        content = f"{message_id}.{at_s}.".encode() + body
        digest = hmac.digest(_key(secret), content, hashlib.sha256)
        headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode("ascii")
    return headers


def _key(secret: Secret) -> bytes:
    """A key that begins with `whsec_` is followed by base64; any other is used as it is."""
    text = secret.reveal()
    if not text.startswith("whsec_"):
        return secret.reveal_bytes()
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise Permanent("secret-unreadable", f"{secret} is not base64 after whsec_") from None


def secret_of(action: Action) -> Secret | None:
    reference = parameters.text(action.settings, "secret", "")
    return secrets.resolve(reference) if reference else None


def authority(order: Order) -> dict[str, str]:
    return {"Evac-Token": str(order.token), "Evac-Epoch": str(order.epoch)}


def body_of(action: Action, order: Order, what: str) -> bytes:
    """The request in canonical JSON, the same for every try of a step. Of the settings, only the address of a
    copy is sent.
    """
    return orjson.dumps(
        {
            "what": what,
            "verb": action.verb,
            "target": action.target,
            "site": action.at,
            "parameters": {key: action.parameters[key] for key in sorted(action.parameters)},
            "copy": {key: action.settings[key] for key in _OF_A_COPY if key in action.settings},
            "run": order.run,
            "step": order.step,
            "reason": order.reason,
            "ticket": order.ticket,
            "token": order.token,
            "epoch": order.epoch,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def judge(answer: Answer, why: str = "") -> None:
    """Raise the error for a status other than 2xx. why: the other system's explanation."""
    status = answer.status
    if 200 <= status < 300:
        return
    words = f"it returned status {status}: {why}" if why else f"it returned status {status}"
    if status in AGAIN:
        raise Retryable("http-busy", words, after_ms=answer.after_ms(time.time()))
    if status >= 500:
        raise OutcomeUnknown("http-failed", words, "observe it first")
    if 300 <= status < 400:
        raise Permanent("http-redirect", f"{words}: redirects are not followed", "write the final URL")
    raise Permanent("http-refused", words, "check what the other system reports")


def plain(answer: Answer) -> dict[str, str | int | bool]:
    """The first small plain values of a JSON response."""
    kept = [
        (f"said_{key[:40]}", value[:200] if isinstance(value, str) else value)
        for key, value in sorted(answer.values().items())
        if isinstance(value, str | int | bool)
    ]
    return dict(kept[:_KEPT])


def speaks(action: Action) -> bool:
    """Whether the endpoint of an action lists its verbs."""
    return DOES in action.settings


class Contract:
    """Client of such a system."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def check(self, action: Action, order: Order) -> Checked:
        """Ready if it can tell whether the action is done and, unless it is done, has no objection."""
        ends_at = asyncio.get_running_loop().time() + order.timeout_s
        observed = Observed("absent")
        try:
            observed = await self._look(action, order, ends_at)
            if observed.outcome == "unclear":
                raise Retryable("http-unclear", f"it cannot tell: {observed.evidence.get('why', '')}")
            if observed.outcome != "done":
                await self._must_be_possible(action, order, ends_at)
        except ActionError as error:
            return Checked((error.message,), observed.evidence)
        return Checked((), observed.evidence)

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            return await self._look(action, order, asyncio.get_running_loop().time() + order.timeout_s)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:_WHY_MAX], "code": error.code})

    async def execute(self, action: Action, order: Order) -> Evidence:
        ends_at = asyncio.get_running_loop().time() + order.timeout_s
        if action.verb == "verify":
            return await self._seen(action, order, ends_at, "done")
        if order.dry_run:
            return {"would_send": f"POST {_url(action).partition('?')[0]}", "verb": action.verb}
        if (await self.observe(action, order)).outcome != "done":
            await self._must_be_possible(action, order, ends_at)
        # Sent even if already done: only the other system knows whether this leader was replaced.
        evidence = plain(await self._ask(action, order, "execute", ends_at))
        return {**evidence, **await self._seen(action, order, ends_at, "done")}

    async def undo(self, action: Action, order: Order) -> Evidence:
        ends_at = asyncio.get_running_loop().time() + order.timeout_s
        answer = await self._ask(action, order, "undo", ends_at)
        if answer.status == 202:
            return {**plain(answer), **await self._seen(action, order, ends_at, "absent")}
        if answer.values().get("outcome") != "done":
            raise OutcomeUnknown(
                "http-unreadable", "its answer to undo contains no outcome", "observe it first"
            )
        return {"status": answer.status, **plain(answer)}

    async def role(self, action: Action, timeout_s: float) -> RoleReport:
        """The role. Raises `Retryable` if it does not respond or returns no role, `Permanent` if it refuses
        access.
        """
        order = Order("role", "role", 1, 0, 0, "role", timeout_s, "role")
        ends_at = asyncio.get_running_loop().time() + timeout_s
        try:
            answer = await self._ask(action, order, "role", ends_at)
            return role_from(answer.values())
        except OutcomeUnknown as error:
            raise Retryable(error.code, error.message, after_ms=1_000) from error
        except ValueError as error:
            words = f"its answer is not a role: {error}"
            raise Retryable(
                "http-unreadable", words, 'reply with JSON like {"role": "primary"}', 1_000
            ) from error

    async def _must_be_possible(self, action: Action, order: Order, ends_at: float) -> None:
        """Raise `Retryable` or `Permanent` with its objection to the action, when nothing was done yet."""
        try:
            answer = await self._ask(action, order, "check", ends_at)
        except OutcomeUnknown as error:
            raise Retryable(error.code, error.message, after_ms=1_000) from error
        if answer.values().get("outcome") != "ready":
            why = _why(action, answer) or "its answer to check does not report that it is ready"
            raise Retryable("http-not-ready", why, after_ms=1_000)

    async def _seen(
        self, action: Action, order: Order, ends_at: float, wanted: Literal["done", "absent"]
    ) -> Evidence:
        """Observe until it is done, because the response to a change proves little. Raises `OutcomeUnknown`;
        `Retryable` for a verify, which changes nothing.
        """
        loop, pause_s = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while True:
            try:
                observed = await self._look(action, order, ends_at)
            except ActionError as error:
                if isinstance(error, Permanent) and action.verb == "verify":
                    raise
                observed = Observed("unclear", {"why": error.message[:_WHY_MAX], "code": error.code})
            if observed.outcome == wanted or (order.dry_run and action.verb == "verify"):
                return observed.evidence
            if ends_at - loop.time() < 2 * _PAUSE_S:
                why = str(observed.evidence.get("why") or f"it reports {observed.outcome}")
                if action.verb == "verify":
                    raise Retryable("not-as-expected", why, after_ms=500)
                code = str(observed.evidence.get("code", "http-accepted"))
                raise OutcomeUnknown(code, f"it was accepted, but is not observed as {wanted}: {why}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S)

    async def _look(self, action: Action, order: Order, ends_at: float) -> Observed:
        """Observe once. Raises the errors of `_ask`."""
        answer = await self._ask(action, order, "observe", ends_at)
        evidence: Mapping[str, str | int | bool] = {"status": answer.status, **plain(answer)}
        match answer.values().get("outcome"):
            case "done":
                return Observed("done", {**evidence, **parameters.proof_of(action)})
            case "absent":
                return Observed("absent", evidence)
            case _:
                why = _why(action, answer) or f"it returned status {answer.status} without an outcome"
                return Observed("unclear", {**evidence, "why": why})

    async def _ask(self, action: Action, order: Order, what: What, ends_at: float) -> Answer:
        """One call. A change has the same key for every try; a query has a new one, so that it gets no
        earlier response. Raises `Retryable`, `Permanent`, `OutcomeUnknown`.
        """
        parameters.refuse_proof(action, DRIVER.proofs)
        url, secret, at = _url(action), secret_of(action), time.time()
        if what != "role" and action.verb not in parameters.many(action.settings, DOES):
            raise Permanent(
                "verb-unknown", f"`does` does not include {action.verb}", f"add {action.verb} to does"
            )
        body = body_of(action, order, what)
        key = f"{order.key}/{what}" if what in CHANGES else f"{order.key}/{what}/{time.time_ns()}"
        headers = signed_headers(secret, key, body, int(at)) | authority(order)
        left_s = max(0.05, ends_at - asyncio.get_running_loop().time())
        try:
            answer = await self._caller.call("POST", url, body=body, headers=headers, timeout_s=left_s)
        except NotReached as error:
            raise Retryable("http-unreachable", str(error)) from error
        except NotAnswered as error:
            raise OutcomeUnknown("http-no-answer", str(error), "observe it first") from error
        judge(answer, _why(action, answer))
        return answer


def _url(action: Action) -> str:
    url = parameters.text(action.settings, "url")
    check_url(url)
    return url


def _why(action: Action, answer: Answer) -> str:
    """Its explanation, of limited length and without our key."""
    why, secret = answer.values().get("why"), secret_of(action)
    if not isinstance(why, str):
        return ""
    return secrets.scrub(" ".join(why.split()), () if secret is None else (secret,))[:_WHY_MAX]
