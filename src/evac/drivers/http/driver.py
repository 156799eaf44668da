"""The driver of webhooks: asks another system over HTTP, signed as Standard Webhooks, one key a step.

What it means when the other system answers:
    2xx          done; 202 only when `observe_url` then says so
    408 425 429 503   not done, again after `Retry-After`
    other 4xx, 3xx    not done, and again does not help; redirects are never followed
    other 5xx, or no answer   it may have been done: observe first
`observe_url` answers GET with {"outcome": "done" | "absent" | "unclear", ...}; 404 is absent.

Health of a service: with `metrics`, from a URL whose JSON says {"requests": N, "errors": N}, both counted for
ever; without, from a handful of requests as a user makes them, of which 5xx and silence are errors.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from evac.drivers import parameters
from evac.drivers.capabilities import AnswersProbe, Fences, HealthReport, ProbeReport, ReportsHealth, Verifies
from evac.drivers.http import DRIVER
from evac.drivers.parameters import text
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net import secrets
from evac.net.http_calls import Answer, Caller, NotAnswered, NotReached, Prober, check_url
from evac.net.secrets import Secret

VERBS: Final[frozenset[Verb]] = frozenset(
    {"fence", "unfence", "start", "stop", "scale", "drain", "ready", "shift", "verify", "run"}
)
METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
AGAIN: Final = frozenset({408, 425, 429, 503})
_KEPT: Final = 12
_FIRST_PAUSE_S: Final = 0.03
_PAUSE_S: Final = 0.25


class HttpDriver(Verifies, ReportsHealth, AnswersProbe, Fences):
    """Sends signed requests; a verify only asks, and any good answer will do."""

    name = "http"
    verbs = VERBS

    def __init__(self) -> None:
        self._caller, self._prober = Caller(), Prober()
        self._health = Health(self._prober)

    async def check(self, action: Action, order: Order) -> Checked:
        """Ready when what can be asked answers; without `observe_url` nothing can be checked."""
        try:
            _request_url(action, "url")
            observed, answer = await self._look(action, order, order.timeout_s)
        except ActionError as error:
            return Checked((error.message,))
        if answer is None or (action.verb != "verify" and not _tells(answer)):
            why = observed.evidence.get("why", "nothing can be asked")
            return Checked((f"observe_url cannot be asked: {why}",), observed.evidence)
        return Checked((), observed.evidence)

    async def execute(self, action: Action, order: Order) -> Evidence:
        if action.verb == "verify":
            return await self._verify(action, order)
        return await self._ask(action, order, "url", "execute")

    async def undo(self, action: Action, order: Order) -> Evidence:
        if not parameters.text(action.settings, "undo_url", ""):
            raise Permanent("undo-unknown", "no undo_url is given", "take it back by hand, then attest it")
        return await self._ask(action, order, "undo_url", "undo")

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            return (await self._look(action, order, order.timeout_s))[0]
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})

    async def report_health(self, action: Action, timeout_s: float, samples: int) -> HealthReport:
        return await self._health.report(action, timeout_s, samples)

    async def probe(self, action: Action, timeout_s: float) -> ProbeReport:
        """A request as a user makes it. Any answer of the application below 500 counts."""
        url = parameters.text(action.settings, "observe_url", "") or parameters.text(action.settings, "url")
        problem = await self._prober.problem(url)
        return ProbeReport(not problem, problem)

    async def close(self) -> None:
        await self._caller.close()
        await self._prober.close()

    async def _verify(self, action: Action, order: Order) -> Evidence:
        """Asks until it answers well: nothing is changed, whatever it says. Raises `Retryable`."""
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + order.timeout_s, _FIRST_PAUSE_S
        while True:
            observed, _ = await self._look(action, order, deadline - loop.time())
            if observed.outcome == "done" or order.dry_run:
                return observed.evidence
            if deadline - loop.time() < 2 * _PAUSE_S:
                why = observed.evidence.get("why", f"it says {observed.outcome}")
                raise Retryable("not-as-expected", str(why), after_ms=500)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S)

    async def _ask(self, action: Action, order: Order, which: str, what: str) -> Evidence:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.timeout_s
        url, method, secret = _request_url(action, which), _method(action), _secret(action)
        if order.dry_run:
            return {"would_send": f"{method} {urlsplit(url)._replace(query='').geturl()}"}
        body = _body(action, order, what)
        headers = signed_headers(secret, f"{order.key}/{what}", body, int(time.time())) | _authority(order)
        try:
            answer = await self._caller.call(
                method, url, body=body, headers=headers, timeout_s=order.timeout_s
            )
        except NotReached as error:
            raise Retryable("http-unreachable", str(error)) from error
        except NotAnswered as error:
            raise OutcomeUnknown("http-no-answer", str(error), "observe it first") from error
        _judge(answer)
        if answer.status == 202:
            await self._until_done(action, order, deadline, "absent" if what == "undo" else "done")
        return {"status": answer.status, **_plain(answer), **parameters.proof_of(action)}

    async def _until_done(self, action: Action, order: Order, deadline: float, outcome: str) -> None:
        """Accepted is not done: asks until it is. Raises `OutcomeUnknown`."""
        loop, pause_s = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while True:
            left = deadline - loop.time()
            observed, answer = await self._look(action, order, left)
            if observed.outcome == outcome:
                return
            if answer is None or left < 2 * _PAUSE_S:
                raise OutcomeUnknown("http-accepted", "it was accepted, and is not seen done")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S)

    async def _look(self, action: Action, order: Order, timeout_s: float) -> tuple[Observed, Answer | None]:
        """What `observe_url` says. Raises `Permanent` for settings that are wrong."""
        which = "observe_url" if parameters.text(action.settings, "observe_url", "") else "url"
        if which == "url" and action.verb != "verify":
            return Observed("unclear", {"why": "no observe_url is given"}), None
        url = _request_url(action, which)
        headers = signed_headers(_secret(action), order.key, b"", int(time.time())) | _authority(order)
        try:
            answer = await self._caller.call("GET", url, headers=headers, timeout_s=timeout_s)
        except (NotReached, NotAnswered) as error:
            return Observed("unclear", {"why": str(error)[:200]}), None
        return _outcome(action, answer), answer


def signed_headers(secret: Secret | None, message_id: str, body: bytes, at_s: int) -> dict[str, str]:
    """Headers of Standard Webhooks (standardwebhooks.com, HMAC-SHA256, `v1`), and the key that makes a second
    try harmless. Without a secret nothing is signed.
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
    """A key that begins with `whsec_` is base64 after it; any other is taken as it is."""
    text = secret.reveal()
    if not text.startswith("whsec_"):
        return secret.reveal_bytes()
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise Permanent("secret-unreadable", f"{secret} is not base64 after whsec_") from None


def _request_url(action: Action, which: str) -> str:
    parameters.refuse_proof(action, DRIVER.proofs)
    url = parameters.text(action.settings, which)
    check_url(url)
    return url


def _method(action: Action) -> str:
    method = parameters.text(action.settings, "method", "POST").upper()
    if method not in METHODS:
        raise Permanent("setting-wrong", f"method must be one of {', '.join(sorted(METHODS))}")
    return method


def _secret(action: Action) -> Secret | None:
    reference = parameters.text(action.settings, "secret", "")
    return secrets.resolve(reference) if reference else None


def _authority(order: Order) -> dict[str, str]:
    return {"Evac-Token": str(order.token), "Evac-Epoch": str(order.epoch)}


def _body(action: Action, order: Order, what: str) -> bytes:
    """What is asked, in canonical JSON, the same for every try of a step. Settings are ours and stay here."""
    return orjson.dumps(
        {
            "what": what,
            "verb": action.verb,
            "target": action.target,
            "site": action.at,
            "parameters": {key: action.parameters[key] for key in sorted(action.parameters)},
            "run": order.run,
            "step": order.step,
            "reason": order.reason,
            "ticket": order.ticket,
            "token": order.token,
            "epoch": order.epoch,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def _judge(answer: Answer) -> None:
    status = answer.status
    if 200 <= status < 300:
        return
    words = f"it answers {status}"
    if status in AGAIN:
        raise Retryable("http-busy", words, after_ms=answer.after_ms(time.time()))
    if status >= 500:
        raise OutcomeUnknown("http-failed", words, "observe it first")
    if 300 <= status < 400:
        raise Permanent("http-redirect", f"{words}: redirects are not followed", "write the final URL")
    raise Permanent("http-refused", words, "look at what the other system says")


def _outcome(action: Action, answer: Answer) -> Observed:
    """What an answer says. To a verify any good answer will do that does not say something else."""
    evidence: Mapping[str, str | int | bool] = {"status": answer.status, **_plain(answer)}
    said = answer.values().get("outcome", "done" if action.verb == "verify" else None)
    if 200 <= answer.status < 300 and action.verb == "verify" and said == "done":
        return Observed("done", evidence)
    if answer.status == 404:
        return Observed("absent", evidence)
    if answer.status == 200 and said == "done":
        return Observed("done", {**evidence, **parameters.proof_of(action)})
    if answer.status == 200 and said == "absent":
        return Observed("absent", evidence)
    return Observed("unclear", {**evidence, "why": f"it answers {answer.status}"})


def _tells(answer: Answer) -> bool:
    """Whether what is asked will ever be able to say that it is done."""
    said = answer.values().get("outcome") in ("done", "absent", "unclear")
    return answer.status == 404 or (answer.status == 200 and said)


def _plain(answer: Answer) -> dict[str, str | int | bool]:
    """The first small plain values of a JSON answer."""
    kept = [
        (f"said_{key[:40]}", value[:200] if isinstance(value, str) else value)
        for key, value in sorted(answer.values().items())
        if isinstance(value, str | int | bool)
    ]
    return dict(kept[:_KEPT])


AT_ONCE: Final = 5


class Health:
    """Looks when it is asked. A counter that was never read before, or fell, says nothing yet."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._counted: dict[str, tuple[int, int]] = {}

    async def report(self, action: Action, timeout_s: float, samples: int) -> HealthReport:
        metrics = text(action.settings, "metrics", "")
        if metrics:
            return await self._from_counters(metrics, timeout_s)
        url = text(action.settings, "observe_url", "") or text(action.settings, "url")
        return await self._from_answers(url, timeout_s, samples)

    async def _from_counters(self, url: str, timeout_s: float) -> HealthReport:
        status, body = await self._get(url, timeout_s)
        try:
            told = orjson.loads(body)
            now = (int(told["requests"]), int(told["errors"]))
        except (ValueError, KeyError, TypeError):
            return HealthReport(0, 0)
        before = self._counted.get(url)
        if status != 200 or min(now) < 0:
            return HealthReport(0, 0)
        self._counted[url] = now
        if before is None or now[0] < before[0] or now[1] < before[1]:
            return HealthReport(0, 0)
        requests = now[0] - before[0]
        return HealthReport(requests, min(now[1] - before[1], requests))

    async def _from_answers(self, url: str, timeout_s: float, samples: int) -> HealthReport:
        gate = asyncio.Semaphore(AT_ONCE)

        async def failed() -> bool:
            async with gate:
                status, _ = await self._get(url, timeout_s)
                return not 200 <= status < 500

        found = await asyncio.gather(*(failed() for _ in range(samples)))
        return HealthReport(len(found), sum(found))

    async def _get(self, url: str, timeout_s: float) -> tuple[int, bytes]:
        """Status 0 where nothing answered in time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._prober.get(url)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""
