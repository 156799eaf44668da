"""What Patroni keeps in etcd, read and changed through etcd's HTTP gateway: leader, sync, config, members.

Owns the claim, evac's own key beside Patroni's: the highest token and epoch that acted on a cluster. Every
change is a transaction that compares it. Several members are tried in turn, each within its own deadline.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import aiohttp

from evac.drivers.parameters import many, stale_token, text
from evac.drivers.port import Order, Value
from evac.model.errors import OutcomeUnknown, Permanent, Retryable

MEMBER_S: Final = 1.0
LEAST_S: Final = 0.01
MAX_ANSWER: Final = 4 << 20
KEYS_MOST: Final = 2_000


@dataclass(frozen=True, slots=True)
class Claim:
    """Who acted last: token, epoch, and what for."""

    token: int = 0
    epoch: int = 0
    purpose: str = ""

    def text(self) -> str:
        return f"{self.token} {self.epoch} {self.purpose}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """One reading of a cluster. sync: names in /sync that may take over; members: name -> what each said."""

    scope: str
    leader: str
    sync: tuple[str, ...]
    config: Mapping[str, Any]
    members: Mapping[str, Mapping[str, Any]]
    claim: Claim
    claim_revision: int
    leader_revision: int
    extra: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def synchronous(self) -> bool:
        return bool(self.config.get("synchronous_mode"))

    @property
    def standby_of(self) -> str:
        """The primary that a standby cluster follows; empty for an ordinary cluster."""
        found = self.config.get("standby_cluster")
        return f"{found.get('host')}:{found.get('port')}" if isinstance(found, dict) and found else ""

    def role(self, name: str) -> str:
        return str(self.members.get(name, {}).get("role", ""))

    def runs(self, name: str) -> bool:
        return self.members.get(name, {}).get("state") in ("running", "streaming")

    def evidence(self) -> dict[str, str | int | bool]:
        """For the journal. alone_s: about what Patroni would need without evac."""
        ttl, loop_wait = number(self.config.get("ttl"), 30), number(self.config.get("loop_wait"), 10)
        seen: dict[str, str | int | bool] = {
            "leader": self.leader or "none",
            "sync": " ".join(self.sync),
            "synchronous": self.synchronous,
            "strict": bool(self.config.get("synchronous_mode_strict")),
            "ttl": ttl,
            "loop_wait": loop_wait,
            "retry_timeout": number(self.config.get("retry_timeout"), 10),
            "alone_s": ttl + loop_wait,
            "timeline": number(self.members.get(self.leader, {}).get("timeline")),
        }
        return seen | ({"standby_cluster_of": self.standby_of} if self.standby_of else {})


@dataclass(frozen=True, slots=True)
class SyncMember:
    """A member that the leader counts on for each commit."""

    name: str
    sync_state: str = "sync"


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One member as Patroni's own record has it. lag_ms: None, because Patroni counts bytes: `behind`."""

    role: str
    writable: bool
    link_up: bool
    behind: int
    timeline: int
    standbys: tuple[SyncMember, ...] = ()
    lag_ms: int | None = None


def number(value: object, default: int = 0) -> int:
    """A number of Patroni's records, which people may write too; the default for what is none."""
    try:
        return int(str(value))
    except ValueError:
        return default


def member_facts(cluster: Cluster, name: str) -> MemberFacts:
    """Of one member. Raises `Retryable` where the cluster does not know it now."""
    seen = cluster.members.get(name)
    if seen is None:
        raise Retryable("member-unknown", f"{name} is no member of {cluster.scope} now", after_ms=500)
    leads = cluster.leader == name and seen.get("role") in ("primary", "master")
    ahead = number(cluster.members.get(cluster.leader, {}).get("xlog_location"))
    own = number(seen.get("xlog_location"))
    return MemberFacts(
        role="primary" if leads else "standby",
        writable=leads and cluster.runs(name) and not cluster.standby_of,
        link_up=cluster.runs(name) and seen.get("replication_state") == "streaming",
        behind=0 if leads else max(0, ahead - own),
        timeline=number(seen.get("timeline")),
        standbys=tuple(SyncMember(one) for one in cluster.sync) if leads else (),
    )


class Dcs:
    """etcd as Patroni uses it."""

    def __init__(self, settings: Mapping[str, Value], timeout_s: float) -> None:
        urls = [part.strip() for entry in many(settings, "etcd") for part in entry.split(",") if part.strip()]
        if not urls:
            raise Permanent("setting-missing", "etcd is not given", "write the client URLs of etcd's members")
        self._urls = [(url if "://" in url else f"http://{url}").rstrip("/") for url in urls]
        self.scope = text(settings, "scope")
        namespace = "/" + text(settings, "namespace", "/service").strip("/")
        self.root = f"{namespace}/{self.scope}/"
        self.claim_key = f"/evac/patroni{namespace}/{self.scope}"
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self._session: aiohttp.ClientSession | None = None
        self.changed = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Dcs]:
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        async with aiohttp.ClientSession() as session:
            self._session = session
            yield self

    def left_s(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()

    async def pause(self, seconds: float) -> None:
        """Waits between two looks; at the deadline raises what is true of what was done so far."""
        if self.left_s() <= seconds:
            raise self._too_late()
        await asyncio.sleep(seconds)

    def _too_late(self) -> OutcomeUnknown | Retryable:
        message = f"the cluster {self.scope} did not get there in time"
        return (OutcomeUnknown if self.changed else Retryable)("patroni-slow", message)

    async def read(self) -> Cluster:
        """The whole cluster in one transaction, so that its parts belong together."""
        asked = {"success": [_range(self.root, KEYS_MOST), _range_one(self.claim_key)]}
        answer = await self._post("/v3/kv/txn", asked, changes=False)
        try:
            found, claims = (part["response_range"].get("kvs", []) for part in answer.get("responses", []))
            return _cluster(self.scope, self.root, found, claims)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Retryable("etcd-answer", "etcd's answer was not understood", after_ms=500) from error

    async def claim(self, seen: Cluster, order: Order, purpose: str) -> Cluster:
        """Writes this order's token and epoch, unless somebody newer did. Nothing is changed before."""
        refuse_stale(seen, order)
        wanted = Claim(order.token, max(order.epoch, seen.claim.epoch), purpose)
        if wanted != seen.claim:
            compare = [_unchanged(self.claim_key, seen.claim_revision)]
            if not await self.transact(compare, [(self.claim_key, wanted.text())], []):
                raise Retryable("patroni-raced", f"another order on {self.scope} came first", after_ms=200)
        return await self.read()

    async def free_leader(self, seen: Cluster, candidate: str) -> bool:
        """Deletes the leader key that was read, while the claim is still ours. This key is Patroni's
        protection against two primaries: only after the old one is fenced.
        """
        compare = [
            _unchanged(self.claim_key, seen.claim_revision),
            _unchanged(self.root + "leader", seen.leader_revision),
        ]
        puts: list[tuple[str, str]] = []
        if len(seen.sync) != 1 or not seen.synchronous:
            # Several could take over; Patroni lets only the named one.
            puts = [(self.root + "failover", json.dumps({"member": candidate}))]
        return await self.transact(compare, puts, [self.root + "leader"])

    async def transact(
        self, compare: Sequence[object], puts: Sequence[tuple[str, str]], deletes: Sequence[str]
    ) -> bool:
        """All or nothing; False where a comparison failed."""
        success: list[object] = [
            {"request_put": {"key": _b64(key), "value": _b64(value)}} for key, value in puts
        ]
        success += [{"request_delete_range": {"key": _b64(key)}} for key in deletes]
        answer = await self._post("/v3/kv/txn", {"compare": list(compare), "success": success}, changes=True)
        return bool(answer.get("succeeded"))

    async def _post(self, path: str, body: object, *, changes: bool) -> dict[str, Any]:
        assert self._session is not None
        last: Exception | None = None
        for url in self._urls:
            limit = min(MEMBER_S, self.left_s())
            if limit <= LEAST_S:
                break
            try:
                async with asyncio.timeout(limit), self._session.post(url + path, json=body) as answer:
                    content = await whole_answer(answer, MAX_ANSWER)
                    if answer.status == 200:
                        self.changed = self.changed or changes
                        found = json.loads(content)
                        if not isinstance(found, dict):
                            raise ValueError("the answer is no object")
                        return found
                    last = Retryable("etcd-refused", f"{url} answered {answer.status}")
            except aiohttp.ClientConnectorError as error:
                last = error
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
                last = error
                if changes:
                    self.changed = True
                    raise OutcomeUnknown(
                        "etcd-silent", f"{url} did not answer; it may have been done"
                    ) from error
        if self.changed and self.left_s() <= LEAST_S:  # a look that the deadline cut says nothing of etcd
            raise self._too_late() from last
        raise Retryable(
            "etcd-unreachable", f"no member of etcd answers for {self.scope}", after_ms=300
        ) from last


async def whole_answer(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or `ValueError` where it is larger than `most` bytes."""
    parts: list[bytes] = []
    left = most
    async for part in answer.content.iter_any():
        left -= len(part)
        if left < 0:
            raise ValueError("the answer is too large")
        parts.append(part)
    return b"".join(parts)


def refuse_stale(seen: Cluster, order: Order) -> None:
    """Raises `Permanent` for an order of an older leader, or for an epoch that is over."""
    if order.token < seen.claim.token or (order.epoch and order.epoch < seen.claim.epoch):
        raise stale_token(seen.scope, seen.claim.token, order)


def _b64(words: str) -> str:
    return base64.b64encode(words.encode()).decode()


def _range(prefix: str, limit: int) -> object:
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return {"request_range": {"key": _b64(prefix), "range_end": _b64(end), "limit": str(limit)}}


def _range_one(key: str) -> object:
    return {"request_range": {"key": _b64(key)}}


def _unchanged(key: str, revision: int) -> object:
    """The key is as it was read; revision 0: it does not exist."""
    return {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _cluster(scope: str, root: str, kvs: list[dict[str, Any]], claims: list[dict[str, Any]]) -> Cluster:
    values: dict[str, str] = {}
    revisions: dict[str, int] = {}
    for entry in kvs:
        key = base64.b64decode(entry["key"]).decode().removeprefix(root)
        values[key] = base64.b64decode(entry.get("value", "")).decode("utf-8", "replace")
        revisions[key] = int(entry["mod_revision"])
    sync = _json(values.get("sync", ""))
    members = {
        key.removeprefix("members/"): _json(value)
        for key, value in values.items()
        if key.startswith("members/")
    }
    claim, revision = _claim(claims)
    return Cluster(
        scope=scope,
        leader=values.get("leader", ""),
        config=_json(values.get("config", "")),
        members=members,
        sync=tuple(name for name in str(sync.get("sync_standby") or "").split(",") if name),
        claim=claim,
        claim_revision=revision,
        leader_revision=revisions.get("leader", 0),
        extra={"initialize": values.get("initialize", ""), "failover": values.get("failover", "")},
    )


def _claim(claims: list[dict[str, Any]]) -> tuple[Claim, int]:
    if not claims:
        return Claim(), 0
    try:
        token, epoch, purpose = base64.b64decode(claims[0]["value"]).decode().split(" ", 2)
        return Claim(int(token), int(epoch), purpose), int(claims[0]["mod_revision"])
    except (KeyError, ValueError) as error:
        raise Permanent("authority-unreadable", "evac's claim on the cluster cannot be read") from error


def _json(words: str) -> dict[str, Any]:
    try:
        found = json.loads(words) if words else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
