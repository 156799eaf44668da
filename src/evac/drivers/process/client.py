"""Client of the sites' agents: signed orders, and which agents to trust.

An order is signed by HMAC-SHA256 over the lines version, site and address of its agent, method, path with
query, timestamp, nonce, SHA-256 of the body: an agent refuses orders for another agent, even from a holder of
its key. A response is signed over the nonce of its order, so that no other response can replace it.

An agent is reached at an `https://` address: its certificate must match the name or address in it and come
from a trusted authority; ours is presented to it. An `http://` address is accepted only for this machine,
unless `plain` says otherwise: orders are signed, but anyone on the network could read them. Certificates are
files, reloaded when they change, so that renewal needs no restart.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets as randomness
import ssl
import time
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from evac.drivers.port import Checked, Observed, Order
from evac.drivers.process import ALLOWED, CA, CERT, DRIVER, KEY, PLAIN
from evac.model.errors import ActionError, InvalidInput, OutcomeUnknown, Permanent, Retryable
from evac.model.estate import Endpoint, Estate
from evac.model.records import dataclass
from evac.net import secrets
from evac.net.http_calls import Answer, Caller, NotAnswered, NotReached, check_url
from evac.net.secrets import Secret
from evac.net.tls import RenewedClient, TlsFiles, TlsTrouble, is_plain, why_cut


@dataclass(frozen=True, slots=True)
class AgentPeer:
    """files: of TLS, PEM. plain: agents on other machines may be reached unencrypted."""

    files: TlsFiles = field(default_factory=TlsFiles)
    plain: bool = False


HERE: Final = AgentPeer()
"""Trusts the authorities of this machine, and presents no certificate."""


def peer_of(environ: Mapping[str, str] = os.environ) -> AgentPeer:
    """From the environment of this process. Raises InvalidInput for invalid values."""
    plain = environ.get(PLAIN, "")
    if plain not in ("", ALLOWED):
        raise InvalidInput(
            "agent-plain", f"{PLAIN} says {plain[:20]!r}", f"write {PLAIN}={ALLOWED}, or leave it out"
        )
    found = {name: Path(environ[name]) for name in (CA, CERT, KEY) if environ.get(name)}
    return AgentPeer(TlsFiles(found.get(CA), found.get(CERT), found.get(KEY)), plain == ALLOWED)


def plain_problem(url: str, peer: AgentPeer) -> str:
    """Why an agent must not be reached at that address; empty if it may."""
    if peer.plain or not is_plain(url):
        return ""
    return f"the agent at {urlsplit(url).hostname} would be contacted without TLS"


PLAIN_HINT: Final = f"write https:// and give the agent a certificate; or set {PLAIN}={ALLOWED}"


class Lines:
    """TLS contexts for agents, recreated when a file changes."""

    def __init__(self, peer: AgentPeer) -> None:
        self.peer = peer
        self._line = RenewedClient(peer.files)

    def to(self, url: str) -> ssl.SSLContext | None:
        """The context for an agent's address; None if unencrypted.

        Raises Permanent if unencrypted access is not allowed; Retryable if no usable files were ever found.
        """
        problem = plain_problem(url, self.peer)
        if problem:
            raise Permanent("agent-plain", problem, PLAIN_HINT)
        if not url.startswith("https:"):
            return None
        try:
            return self._line.now()
        except InvalidInput as error:
            raise Retryable(error.code, error.message, error.hint) from error


def agent_endpoints(estate: Estate) -> dict[str, Endpoint]:
    """Site -> the first endpoint that names its agent."""
    found: dict[str, Endpoint] = {}
    for end in estate.endpoints:
        if end.driver == DRIVER.name and "agent" in end.settings:
            found.setdefault(end.at, end)
    return found


def agent_of(estate: Estate, site: str) -> Endpoint | None:
    """The endpoint that names the agent of a site; None if there is none."""
    return agent_endpoints(estate).get(site)


TIMESTAMP: Final = "Evac-Timestamp"
NONCE: Final = "Evac-Nonce"
SITE: Final = "Evac-Site"
ADDRESS: Final = "Evac-Address"
SIGNATURE: Final = "Evac-Signature"
ORDERS: Final = "Evac-Orders"
"""Header in a refusal: the version of orders that the agent accepts. Agents before version 2 do not send
it.
"""
LEAST_KEY_BYTES: Final = 16
VERSION: Final = "v2="
OLDER: Final = "v1="
"""Orders that name no agent."""


@dataclass(frozen=True, slots=True)
class AgentAt:
    """An agent in an estate. secret: the reference of its key."""

    site: str
    url: str
    secret: str

    @property
    def addressee(self) -> Addressee:
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return Addressee(self.site, address(parts.hostname or "", port))


@dataclass(frozen=True, slots=True)
class Addressee:
    """The recipient of an order. address: `host:port`."""

    site: str
    address: str


def address(host: str, port: int) -> str:
    """Address format in orders: lower case, IPv6 in brackets."""
    host = host.lower()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def order_signature(
    secret: Secret,
    method: str,
    path: str,
    body: bytes,
    at_ms: int,
    nonce: str,
    to: Addressee,
    version: str = VERSION,
) -> str:
    """The signature of an order. path: including its query, as sent."""
    named = (version, to.site, to.address) if version != OLDER else ()
    return _sign(secret, ("order", *named, method.upper(), path, str(at_ms), nonce, _digest(body)), version)


def answer_signature(secret: Secret, status: int, body: bytes, nonce: str, version: str = VERSION) -> str:
    """The signature of the response to the order with this nonce."""
    named = (version,) if version != OLDER else ()
    return _sign(secret, ("answer", *named, str(status), nonce, _digest(body)), version)


def same(one: str, other: str) -> bool:
    """Compare two signatures in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _sign(secret: Secret, lines: tuple[str, ...], version: str) -> str:
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    return version + hmac.new(secret.reveal_bytes(), content, hashlib.sha256).hexdigest()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


ERRORS: Final[Mapping[str, type[ActionError]]] = {
    "retryable": Retryable,
    "permanent": Permanent,
    "unknown": OutcomeUnknown,
}


CUT_S: Final = 0.5
CLOCK_CODES: Final = frozenset({"clock-skew", "agent-just-started"})
"""Refusals of an order only for its time: nothing was done."""


REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "tls-client-missing": (
        "the agent requires a client certificate",
        "give one: EVAC_AGENT_CERT and EVAC_AGENT_KEY, or evac serve --agent-cert",
    ),
    "tls-client-name": (
        "the agent does not accept orders from the name in our certificate",
        "add the name to names in the agent's file, or present another certificate",
    ),
}
"""Refusals of a connection, before any order was read: nothing was done."""


class AgentClient:
    """Client for agents. Each order has a fresh nonce and the agent's time; each response must be signed for
    that nonce. If an agent reports, signed, a different clock, the order is repeated once with its time.
    peer: TLS settings.
    """

    def __init__(self, peer: AgentPeer = HERE) -> None:
        self._caller, self._lines = Caller(), Lines(peer)
        self._ahead_ms: dict[str, int] = {}

    async def send(
        self, agent: AgentAt, path: str, values: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """The agent's response. Raises `Retryable`, `Permanent`, `OutcomeUnknown`."""
        check_url(agent.url)
        key = secrets.resolve(agent.secret)
        if len(key.reveal_bytes()) < LEAST_KEY_BYTES:
            raise Permanent("secret-short", f"{key} is shorter than {LEAST_KEY_BYTES} bytes")
        body = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
        found = await self._ask(agent, key, path, body, timeout_s)
        if self._learned(agent.url, found):
            found = await self._ask(agent, key, path, body, timeout_s)
        error = found.get("error")
        if isinstance(error, dict):
            raise _error(error)
        return found

    async def _ask(
        self, agent: AgentAt, key: Secret, path: str, body: bytes, timeout_s: float
    ) -> dict[str, Any]:
        """One order, one response. The agent's own errors are returned as values."""
        nonce, at_ms = randomness.token_hex(16), max(0, _wall_ms() + self._ahead_ms.get(agent.url, 0))
        url, to = agent.url.rstrip("/") + path, agent.addressee
        headers = {
            "Content-Type": "application/json",
            TIMESTAMP: str(at_ms),
            NONCE: nonce,
            SITE: to.site,
            ADDRESS: to.address,
            SIGNATURE: order_signature(key, "POST", urlsplit(url).path, body, at_ms, nonce, to),
        }
        try:
            answer = await self._caller.call(
                "POST", url, body=body, headers=headers, timeout_s=timeout_s, line=self._lines.to(url)
            )
        except NotReached as error:
            code = "agent-unreachable" if error.trouble is None else error.trouble.code
            hint = "" if error.trouble is None else error.trouble.hint
            raise Retryable(code, str(error), hint) from error
        except NotAnswered as error:
            trouble = error.trouble or await self._why_cut(url, error)
            code = "agent-no-answer" if trouble is None else trouble.code
            words = str(error) if trouble is None else f"{agent.url}: {trouble.words}"
            raise OutcomeUnknown(code, words, "observe it first") from error
        return _understood(answer, agent, key, nonce)

    async def _why_cut(self, url: str, error: NotAnswered) -> TlsTrouble | None:
        """Whether an agent closed the connection because of our certificate; the outcome of the order stays
        unknown.
        """
        import aiohttp

        line = self._lines.to(url)
        if line is None or not isinstance(error.__cause__, aiohttp.ClientConnectionError):
            return None
        parts = urlsplit(url)
        shown = self._lines.peer.files.cert is not None
        return await why_cut(parts.hostname or "", parts.port or 443, line, shown, CUT_S)

    def _learned(self, agent: str, found: Mapping[str, Any]) -> bool:
        """Whether an order was refused for its time and the agent sent, signed, its own time."""
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
    """An order as the agent parses it."""
    return {
        "run": order.run,
        "step": order.step,
        "attempt": order.attempt,
        "token": order.token,
        "epoch": order.epoch,
        "reason": order.reason,
        "timeout_ms": int(order.timeout_s * 1_000),
        "key": order.key,
        "ticket": order.ticket,
        "dry_run": order.dry_run,
    }


def evidence_of(answer: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """The small plain values that an agent observed."""
    said = answer.get("evidence")
    if not isinstance(said, dict):
        return {}
    return {str(key): value for key, value in said.items() if isinstance(value, str | int | bool)}


def observed_of(answer: Mapping[str, Any]) -> Observed:
    """An agent's observation of an action; anything unexpected is unclear."""
    outcome = answer.get("outcome")
    if outcome == "done":
        return Observed("done", evidence_of(answer))
    return Observed("absent" if outcome == "absent" else "unclear", evidence_of(answer))


def _understood(answer: Answer, agent: AgentAt, key: Secret, nonce: str) -> dict[str, Any]:
    """The values of a response with a valid signature. An unsigned refusal is accepted: nothing was done."""
    values = answer.values()
    said = answer.headers.get(SIGNATURE.lower(), "")
    wanted = answer_signature(key, answer.status, answer.body, nonce)
    if not same(said, wanted):
        refused = values.get("error")
        if answer.status == 403 and isinstance(refused, dict) and refused.get("code") in REFUSED:
            raise Permanent(str(refused["code"]), *REFUSED[refused["code"]])
        if answer.status == 401 and ORDERS.lower() not in answer.headers:
            raise Permanent(
                "agent-older",
                f"the agent at {agent.url} runs an older version of evac: "
                "it does not accept orders that state which agent they are for",
                "upgrade agents before controllers, with older_orders = true in their files until all are",
            )
        if answer.status in (401, 404, 405, 413):
            raise Permanent(
                "agent-refused", f"the agent answers {answer.status}", "check its key and address"
            )
        raise OutcomeUnknown(
            "agent-answer", "received an answer that the agent did not sign", "observe it first"
        )
    return values


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def error_values(error: ActionError) -> dict[str, Any]:
    """An error of an agent as encoded in its responses."""
    kind = next((name for name, one in ERRORS.items() if isinstance(error, one)), "unknown")
    said = {"kind": kind, "code": error.code, "message": error.message, "hint": error.hint}
    return said | {"after_ms": error.after_ms} if isinstance(error, Retryable) else said


def checked_of(answer: Mapping[str, Any]) -> Checked:
    """An agent's check of an action; agents of older versions name no error."""
    problems = tuple(str(words) for words in answer.get("problems", ()))
    would = answer.get("would")
    error = _error(would) if isinstance(would, dict) and problems else None
    return Checked(problems, evidence_of(answer), error)


def not_checked(error: ActionError) -> Checked:
    """For an agent that could not be queried: nothing was started, whatever happened to the query."""
    if isinstance(error, OutcomeUnknown):
        error = Retryable(error.code, error.message, error.hint)
    return Checked((error.message,), error=error)


def _error(said: Mapping[str, Any]) -> ActionError:
    kind = ERRORS.get(str(said.get("kind")), OutcomeUnknown)
    words = (str(said.get("code", "agent-error")), str(said.get("message", "")), str(said.get("hint", "")))
    if kind is Retryable:
        after_ms = said.get("after_ms", 0)
        return Retryable(*words, after_ms=after_ms if isinstance(after_ms, int) else 0)
    return kind(*words)
