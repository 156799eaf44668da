"""What Patroni keeps in etcd, as evac reads it, and evac's own claim next to it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final

from evac.drivers.parameters import many, stale_token, text
from evac.drivers.port import Order, Value
from evac.model.errors import OutcomeUnknown, Permanent, Retryable, StoreError
from evac.model.records import dataclass
from evac.net.etcd_gateway import Gateway, NotSent, Refused, text_key
from evac.net.secrets import path_of

MEMBER_S: Final = 1.0
LEAST_S: Final = 0.01
KEYS_MOST: Final = 2_000


@dataclass(frozen=True, slots=True)
class Claim:
    """Who acted last: token, epoch, and purpose."""

    token: int = 0
    epoch: int = 0
    purpose: str = ""

    def text(self) -> str:
        return f"{self.token} {self.epoch} {self.purpose}"


@dataclass(frozen=True, slots=True)
class PatroniCluster:
    """A snapshot of a cluster. sync: names in /sync that may take over; members: name -> its own record."""

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

    def follows(self, name: str) -> bool:
        """Whether the member runs and receives its leader's log now; Patroni records that from 3.0.4 on."""
        return self.runs(name) and self.members[name].get("replication_state") == "streaming"

    def evidence(self) -> dict[str, str | int | bool]:
        """For the journal. alone_s: approximate time Patroni would need without evac."""
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
    """A member that the leader needs for each commit."""

    name: str
    sync_state: str = "sync"


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One member in Patroni's own records. lag_ms: None, because Patroni counts bytes: `behind`."""

    role: str
    writable: bool
    link_up: bool
    behind: int
    timeline: int
    standbys: tuple[SyncMember, ...] = ()
    lag_ms: int | None = None


def number(value: object, default: int = 0) -> int:
    """A number in Patroni's records, which people may write too; the default if it is not one."""
    try:
        return int(str(value))
    except ValueError:
        return default


def member_facts(cluster: PatroniCluster, name: str) -> MemberFacts:
    """Facts of one member. Raises `Retryable` if the cluster does not currently know it."""
    seen = cluster.members.get(name)
    if seen is None:
        raise Retryable("member-unknown", f"{name} is not a member of {cluster.scope}", after_ms=500)
    leads = cluster.leader == name and seen.get("role") in ("primary", "master")
    ahead = number(cluster.members.get(cluster.leader, {}).get("xlog_location"))
    own = number(seen.get("xlog_location"))
    return MemberFacts(
        role="primary" if leads else "standby",
        writable=leads and cluster.runs(name) and not cluster.standby_of,
        link_up=cluster.follows(name),
        behind=0 if leads else max(0, ahead - own),
        timeline=number(seen.get("timeline")),
        standbys=tuple(SyncMember(one) for one in cluster.sync) if leads else (),
    )


class Dcs:
    """etcd as Patroni uses it."""

    def __init__(self, settings: Mapping[str, Value], timeout_s: float) -> None:
        urls = [part.strip() for entry in many(settings, "etcd") for part in entry.split(",") if part.strip()]
        if not urls:
            raise Permanent("setting-missing", "etcd is not set", "set the client URLs of etcd's members")
        members = [(url if "://" in url else f"http://{url}").rstrip("/") for url in urls]
        names = ("etcd_ca", "etcd_cert", "etcd_key")
        authority, cert, key = (path_of(text(settings, name, "")) for name in names)
        self._etcd = Gateway(
            members,
            user=text(settings, "etcd_user", ""),
            password=text(settings, "etcd_password", ""),
            tls=(authority, cert, key),
            attempt_s=MEMBER_S,
        )
        self.scope = text(settings, "scope")
        namespace = "/" + text(settings, "namespace", "/service").strip("/")
        self.root = f"{namespace}/{self.scope}/"
        self.claim_key = f"/evac/patroni{namespace}/{self.scope}"
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self.changed = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Dcs]:
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            yield self
        finally:
            await self._etcd.close()

    def left_s(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()

    async def pause(self, seconds: float) -> None:
        """Wait between two reads; at the deadline raise the error for what was done so far."""
        if self.left_s() <= seconds:
            raise self._too_late()
        await asyncio.sleep(seconds)

    def _too_late(self) -> OutcomeUnknown | Retryable:
        message = f"the cluster {self.scope} did not finish in time"
        return (OutcomeUnknown if self.changed else Retryable)("patroni-slow", message)

    async def read(self) -> PatroniCluster:
        """The whole cluster in one transaction, so that its parts are consistent."""
        end = self.root[:-1] + chr(ord(self.root[-1]) + 1)
        keys = {"key": text_key(self.root), "range_end": text_key(end), "limit": str(KEYS_MOST)}
        asked = {"success": [{"request_range": keys}, {"request_range": {"key": text_key(self.claim_key)}}]}
        answer = await self._transact(asked, changes=False)
        try:
            found, claims = (part["response_range"].get("kvs", []) for part in answer.get("responses", []))
            return _cluster(self.scope, self.root, found, claims)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Retryable("etcd-answer", "etcd's response was not understood", after_ms=500) from error

    async def claim(self, seen: PatroniCluster, order: Order, purpose: str) -> PatroniCluster:
        """Write this order's token and epoch, unless a newer one is there. Nothing is changed before."""
        refuse_stale(seen, order)
        wanted = Claim(order.token, max(order.epoch, seen.claim.epoch), purpose)
        if wanted != seen.claim:
            compare = [_unchanged(self.claim_key, seen.claim_revision)]
            if not await self.transact(compare, [(self.claim_key, wanted.text())], []):
                raise Retryable("patroni-raced", f"another order for {self.scope} came first", after_ms=200)
        return await self.read()

    async def free_leader(self, seen: PatroniCluster, candidate: str) -> bool:
        """Delete the leader key that was read, while the claim is ours and only after the old primary is
        fenced.
        """
        compare = [
            _unchanged(self.claim_key, seen.claim_revision),
            _unchanged(self.root + "leader", seen.leader_revision),
        ]
        puts: list[tuple[str, str]] = []
        if len(seen.sync) != 1 or not seen.synchronous:
            # Several could take over; Patroni allows only the named one.
            puts = [(self.root + "failover", json.dumps({"member": candidate}))]
        return await self.transact(compare, puts, [self.root + "leader"])

    async def transact(
        self, compare: Sequence[object], puts: Sequence[tuple[str, str]], deletes: Sequence[str]
    ) -> bool:
        """A transaction; False if a comparison failed."""
        success: list[object] = [
            {"request_put": {"key": text_key(key), "value": text_key(value)}} for key, value in puts
        ]
        success += [{"request_delete_range": {"key": text_key(key)}} for key in deletes]
        answer = await self._transact({"compare": list(compare), "success": success}, changes=True)
        return bool(answer.get("succeeded"))

    async def _transact(self, body: Mapping[str, Any], *, changes: bool) -> dict[str, Any]:
        last: Exception | None = None
        for member, url in enumerate(self._etcd.endpoints):
            if min(MEMBER_S, self.left_s()) <= LEAST_S:
                break
            try:
                answer = await self._etcd.ask(member, "/v3/kv/txn", body, time.monotonic() + self.left_s())
            except (NotSent, Refused) as error:
                last = error
            except StoreError as error:
                last = error
                if changes:
                    self.changed = True
                    raise OutcomeUnknown(
                        "etcd-silent", f"{url} did not answer; it may have taken effect"
                    ) from error
            else:
                self.changed = self.changed or changes
                return answer
        if self.changed and self.left_s() <= LEAST_S:  # the deadline cut it off
            raise self._too_late() from last
        raise Retryable(
            "etcd-unreachable", f"no etcd member answers for {self.scope}", after_ms=300
        ) from last


def refuse_stale(seen: PatroniCluster, order: Order) -> None:
    """Raise `Permanent` for an order of an older leader, or for an epoch that has ended."""
    if order.token < seen.claim.token or (order.epoch and order.epoch < seen.claim.epoch):
        raise stale_token(seen.scope, seen.claim.token, order)


def _unchanged(key: str, revision: int) -> object:
    """The key is as it was read; revision 0: it does not exist."""
    return {"key": text_key(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _cluster(
    scope: str, root: str, kvs: list[dict[str, Any]], claims: list[dict[str, Any]]
) -> PatroniCluster:
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
    return PatroniCluster(
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
