"""Driver for webhooks: calls another system over HTTP, signed as Standard Webhooks, with one key for each
step.

Meaning of the response:
2xx          done; for 202, only once `observe_url` says so
408 425 429 503   not done, retry after `Retry-After`
other 4xx, 3xx    not done, and a retry does not help; redirects are never followed
other 5xx, or no response   it may have been done: observe first
`observe_url` responds to GET with {"outcome": "done" | "absent" | "unclear", ...}; 404 is absent.
An endpoint that lists its verbs (`does`) handles every request at one URL instead: see `contract`.

Health of a service: with `metrics`, a URL whose JSON says {"requests": N, "errors": N}, both counters that
never reset; without, a few requests as a user makes them, of which 5xx and no response are errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from evac.drivers import capabilities, parameters
from evac.drivers.http import DRIVER, contract
from evac.drivers.parameters import text
from evac.drivers.port import BY_SCRIPT, Action, Checked, Evidence, Observed, Order
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net.http_calls import Answer, Caller, NotAnswered, NotReached, Prober, check_url

METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_FIRST_PAUSE_S: Final = 0.03
_PAUSE_S: Final = 0.25


class HttpDriver(
    capabilities.Verifies,
    capabilities.ReportsHealth,
    capabilities.AnswersProbe,
    capabilities.Fences,
    capabilities.ReportsRole,
    capabilities.Promotes,
    capabilities.Follows,
    capabilities.RunsUnits,
    capabilities.RoutesTraffic,
):
    """Sends signed requests; a verify only reads, and accepts any good response. An endpoint with `does` uses
    `contract`.
    """

    name = "http"
    verbs = BY_SCRIPT - {"boot"}

    def __init__(self) -> None:
        self._caller, self._prober = Caller(), Prober()
        self._health = Health(self._prober)
        self._contract = contract.Contract(self._caller)

    async def check(self, action: Action, order: Order) -> Checked:
        """Ready if everything that can be queried responds; without `observe_url` or `does` nothing can be
        checked.
        """
        if contract.speaks(action):
            return await self._contract.check(action, order)
        try:
            _request_url(action, "url")
            observed, answer = await self._look(action, order, order.timeout_s)
        except ActionError as error:
            return Checked((error.message,))
        if answer is None or (action.verb != "verify" and not _tells(answer)):
            why = observed.evidence.get("why", "no URL is set")
            return Checked((f"observe_url did not answer: {why}",), observed.evidence)
        return Checked((), observed.evidence)

    async def execute(self, action: Action, order: Order) -> Evidence:
        if contract.speaks(action):
            return await self._contract.execute(action, order)
        if action.verb == "verify":
            return await self._verify(action, order)
        return await self._ask(action, order, "url", "execute")

    async def undo(self, action: Action, order: Order) -> Evidence:
        if contract.speaks(action):
            return await self._contract.undo(action, order)
        if not parameters.text(action.settings, "undo_url", ""):
            raise Permanent("undo-unknown", "undo_url is not set", "undo it by hand, then attest it")
        return await self._ask(action, order, "undo_url", "undo")

    async def observe(self, action: Action, order: Order) -> Observed:
        if contract.speaks(action):
            return await self._contract.observe(action, order)
        try:
            return (await self._look(action, order, order.timeout_s))[0]
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})

    async def report_role(self, action: Action, timeout_s: float) -> capabilities.RoleReport:
        return await self._contract.role(action, timeout_s)

    async def report_health(
        self, action: Action, timeout_s: float, samples: int
    ) -> capabilities.HealthReport:
        return await self._health.report(action, timeout_s, samples)

    async def probe(self, action: Action, timeout_s: float) -> capabilities.ProbeReport:
        """A request as a user makes it. Any response of the application below 500 counts."""
        url = parameters.text(action.settings, "observe_url", "") or parameters.text(action.settings, "url")
        problem = await self._prober.problem(url)
        return capabilities.ProbeReport(not problem, problem)

    async def close(self) -> None:
        await self._caller.close()
        await self._prober.close()

    async def _verify(self, action: Action, order: Order) -> Evidence:
        """Query until it responds well; changes nothing. Raises `Retryable`."""
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + order.timeout_s, _FIRST_PAUSE_S
        while True:
            observed, _ = await self._look(action, order, deadline - loop.time())
            if observed.outcome == "done" or order.dry_run:
                return observed.evidence
            if deadline - loop.time() < 2 * _PAUSE_S:
                why = observed.evidence.get("why", f"it reports {observed.outcome}")
                raise Retryable("not-as-expected", str(why), after_ms=500)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S)

    async def _ask(self, action: Action, order: Order, which: str, what: str) -> Evidence:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.timeout_s
        url, method, secret = _request_url(action, which), _method(action), contract.secret_of(action)
        if order.dry_run:
            return {"would_send": f"{method} {urlsplit(url)._replace(query='').geturl()}"}
        body = contract.body_of(action, order, what)
        headers = contract.signed_headers(
            secret, f"{order.key}/{what}", body, int(time.time())
        ) | contract.authority(order)
        try:
            answer = await self._caller.call(
                method, url, body=body, headers=headers, timeout_s=order.timeout_s
            )
        except NotReached as error:
            raise Retryable("http-unreachable", str(error)) from error
        except NotAnswered as error:
            raise OutcomeUnknown("http-no-answer", str(error), "observe it first") from error
        contract.judge(answer)
        if answer.status == 202:
            await self._until_done(action, order, deadline, "absent" if what == "undo" else "done")
        return {"status": answer.status, **contract.plain(answer), **parameters.proof_of(action)}

    async def _until_done(self, action: Action, order: Order, deadline: float, outcome: str) -> None:
        """Accepted is not done: observe until it is. Raises `OutcomeUnknown`."""
        loop, pause_s = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while True:
            left = deadline - loop.time()
            observed, answer = await self._look(action, order, left)
            if observed.outcome == outcome:
                return
            if answer is None or left < 2 * _PAUSE_S:
                raise OutcomeUnknown("http-accepted", "it was accepted, but is not observed as done")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S)

    async def _look(self, action: Action, order: Order, timeout_s: float) -> tuple[Observed, Answer | None]:
        """The result of `observe_url`. Raises `Permanent` for wrong settings."""
        which = "observe_url" if parameters.text(action.settings, "observe_url", "") else "url"
        if which == "url" and action.verb != "verify":
            return Observed("unclear", {"why": "observe_url is not set"}), None
        url = _request_url(action, which)
        headers = contract.signed_headers(
            contract.secret_of(action), order.key, b"", int(time.time())
        ) | contract.authority(order)
        try:
            answer = await self._caller.call("GET", url, headers=headers, timeout_s=timeout_s)
        except (NotReached, NotAnswered) as error:
            return Observed("unclear", {"why": str(error)[:200]}), None
        return _outcome(action, answer), answer


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


def _outcome(action: Action, answer: Answer) -> Observed:
    """The meaning of a response. A verify accepts any good response that does not say otherwise."""
    evidence: Mapping[str, str | int | bool] = {"status": answer.status, **contract.plain(answer)}
    said = answer.values().get("outcome", "done" if action.verb == "verify" else None)
    if 200 <= answer.status < 300 and action.verb == "verify" and said == "done":
        return Observed("done", evidence)
    if answer.status == 404:
        return Observed("absent", evidence)
    if answer.status == 200 and said == "done":
        return Observed("done", {**evidence, **parameters.proof_of(action)})
    if answer.status == 200 and said == "absent":
        return Observed("absent", evidence)
    return Observed("unclear", {**evidence, "why": f"it returned status {answer.status}"})


def _tells(answer: Answer) -> bool:
    """Whether observation will ever be able to report that it is done."""
    said = answer.values().get("outcome") in ("done", "absent", "unclear")
    return answer.status == 404 or (answer.status == 200 and said)


AT_ONCE: Final = 5


class Health:
    """Reads health on demand. A counter that was never read before, or fell, gives no result yet."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._counted: dict[str, tuple[int, int]] = {}

    async def report(self, action: Action, timeout_s: float, samples: int) -> capabilities.HealthReport:
        metrics = text(action.settings, "metrics", "")
        if metrics:
            return await self._from_counters(metrics, timeout_s)
        url = text(action.settings, "observe_url", "") or text(action.settings, "url")
        return await self._from_answers(url, timeout_s, samples)

    async def _from_counters(self, url: str, timeout_s: float) -> capabilities.HealthReport:
        status, body = await self._get(url, timeout_s)
        try:
            told = orjson.loads(body)
            now = (int(told["requests"]), int(told["errors"]))
        except (ValueError, KeyError, TypeError):
            return capabilities.HealthReport(0, 0)
        before = self._counted.get(url)
        if status != 200 or min(now) < 0:
            return capabilities.HealthReport(0, 0)
        self._counted[url] = now
        if before is None or now[0] < before[0] or now[1] < before[1]:
            return capabilities.HealthReport(0, 0)
        requests = now[0] - before[0]
        return capabilities.HealthReport(requests, min(now[1] - before[1], requests))

    async def _from_answers(self, url: str, timeout_s: float, samples: int) -> capabilities.HealthReport:
        gate = asyncio.Semaphore(AT_ONCE)

        async def failed() -> bool:
            async with gate:
                status, _ = await self._get(url, timeout_s)
                return not 200 <= status < 500

        found = await asyncio.gather(*(failed() for _ in range(samples)))
        return capabilities.HealthReport(len(found), sum(found))

    async def _get(self, url: str, timeout_s: float) -> tuple[int, bytes]:
        """Status 0 if there was no response in time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._prober.get(url)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""
