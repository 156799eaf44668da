"""Driver for Patroni: an orderly switchover through its REST API; a failover by deleting its leader key, only
after the old primary is fenced; the promotion of a standby cluster.

On its own, Patroni waits for its leader key to expire, at least 20 s. That key protects it from two
primaries, so evac first claims the cluster in etcd and deletes the key in a transaction that checks the
claim: evac's own key next to Patroni's, with the highest token and epoch that acted on a cluster.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from evac.drivers.capabilities import Fences, Follows, Promotes, Protects, ReportsRole, RoleReport
from evac.drivers.parameters import many, text
from evac.drivers.patroni.dcs import Dcs, MemberFacts, PatroniCluster, member_facts, number, refuse_stale
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.store_driver import StoreDriver
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net.http_calls import Caller, NotAnswered, NotReached
from evac.net.secrets import resolve, scrub

REST_S: Final = 3.0
PEER_S: Final = 0.5
POLL_S: Final = 0.1
PROOFS: Final = frozenset({"lease", "network", "power", "attest"})
"""Proofs that permit deleting the leader key. `sync` does not: Patroni restarts a stopped receiver."""
_MISREAD: Final = re.compile(r"(any|first)[a-z0-9_$]*", re.IGNORECASE)


def misread_name(name: str) -> bool:
    """Whether Patroni 4 misreads a name in synchronous_standby_names: one that begins with `any` or `first`
    and needs no quotes. Such a member looks synchronous but never takes over.
    """
    return _MISREAD.fullmatch(name) is not None


class PatroniDriver(StoreDriver, ReportsRole, Promotes, Fences, Follows, Protects):
    """Settings: scope, url (this member's REST API), etcd (client URLs), namespace, name (this member),
    rest_user and rest_password (reference) if the API requires them.
    """

    name = "patroni"
    verbs: frozenset[Verb] = frozenset({"fence", "demote", "promote", "protect", "rejoin", "verify"})
    proofs = ("lease",)

    async def _check(self, action: Action, order: Order) -> Checked:
        async with Dcs(action.settings, order.timeout_s).open() as dcs:
            cluster = await dcs.read()
            refuse_stale(cluster, order)
        problems = await _problems(action, order, cluster)
        return Checked(tuple(problems), {**cluster.evidence(), **_warnings(cluster)})

    async def _execute(self, action: Action, order: Order) -> Evidence:
        async with Dcs(action.settings, order.timeout_s).open() as dcs:
            cluster = await dcs.read()
            refuse_stale(cluster, order)
            if _is_done(action, order, cluster):
                if order.token > cluster.claim.token:
                    cluster = await dcs.claim(cluster, order, action.verb)
                return {**_evidence(action, cluster), "already": True}
            if problems := await _problems(action, order, cluster):
                refused = action.verb == "promote" and not text(action.parameters, "proof", "")
                kind = Permanent if refused else Retryable
                raise kind("patroni-not-ready", problems[0])
            cluster = await dcs.claim(cluster, order, action.verb)
            how = await _act(dcs, action, order, cluster)
            while not _is_done(action, order, cluster):
                await dcs.pause(POLL_S)
                cluster = await dcs.read()
            return {**_evidence(action, cluster), "how": how, "epoch": order.epoch}

    async def _observe(self, action: Action, order: Order) -> Observed:
        cluster = await self.cluster(action, order.timeout_s)
        if not _is_done(action, order, cluster):
            return Observed("absent", cluster.evidence())
        return Observed("done", _evidence(action, cluster))

    async def cluster(self, action: Action, timeout_s: float) -> PatroniCluster:
        """Leader, synchronous members, timers, for probes and plans. Raises `Retryable`, `Permanent`."""
        async with Dcs(action.settings, timeout_s).open() as dcs:
            return await dcs.read()

    async def facts(self, action: Action, timeout_s: float) -> MemberFacts:
        """Role of the endpoint's member, and who confirms its commits. Raises `Retryable`, `Permanent`."""
        return member_facts(await self.cluster(action, timeout_s), _name(action))

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        """The role, without positions: Patroni's record of them is as old as its loop and proves nothing."""
        facts = await self.facts(action, timeout_s)
        if facts.role == "primary":
            confirms = tuple(one.name for one in facts.standbys)
            return RoleReport("primary" if facts.writable else "none", 0, confirms)
        return RoleReport("replica", 0) if facts.link_up else RoleReport("detached")

    async def precheck(self, action: Action, timeout_s: float) -> Checked:
        """Whether this member could take over now; not while /sync names no standby. Never raises."""
        try:
            cluster = await self.cluster(action, timeout_s)
            problems = _problems_of_candidate(cluster, _name(action))
            return Checked(tuple(problems), {**cluster.evidence(), **_warnings(cluster)})
        except ActionError as error:
            return Checked((error.message,))

    def _subject(self, action: Action) -> str:
        return f"{_name(action)} of {text(action.settings, 'scope')}"


def _name(action: Action) -> str:
    return text(action.settings, "name")


def _old_leader(action: Action) -> str:
    return text(action.parameters, "old_name", "")


def _warnings(cluster: PatroniCluster) -> dict[str, str | int | bool]:
    """Problems that block nothing today."""
    found = [
        f"{name} can never take over: rename it" for name in sorted(cluster.members) if misread_name(name)
    ]
    if cluster.synchronous and not cluster.config.get("synchronous_mode_strict"):
        found.append("not strict: it falls back to asynchronous by itself when its standby is gone")
    ttl, loop_wait = number(cluster.config.get("ttl"), 30), number(cluster.config.get("loop_wait"), 10)
    if loop_wait + 2 * number(cluster.config.get("retry_timeout"), 10) > ttl:
        found.append("loop_wait + 2 x retry_timeout is more than ttl")
    return {"warnings": "; ".join(found)[:900]} if found else {}


def _problems_of_candidate(cluster: PatroniCluster, name: str) -> list[str]:
    problems: list[str] = []
    if name not in cluster.members:
        problems.append(f"{name} is not a member of {cluster.scope}")
    elif not cluster.runs(name):
        problems.append(f"{name} is {cluster.members[name].get('state')}, not running")
    if cluster.synchronous and name != cluster.leader:
        if not cluster.sync:
            problems.append("/sync names no standby, so Patroni would promote none")
        elif name not in cluster.sync:
            problems.append(f"/sync names {', '.join(cluster.sync)}, not {name}")
        if misread_name(name):
            problems.append(f"Patroni misreads the name {name} and never fails over to it: rename it")
    return problems


async def _problems(action: Action, order: Order, cluster: PatroniCluster) -> list[str]:
    """What prevents the verb now; none if it is already done."""
    if _is_done(action, order, cluster):
        return []
    match action.verb:
        case "promote":
            return await _problems_of_promote(action, cluster)
        case "demote":
            return (
                []
                if cluster.runs(cluster.leader)
                else ["the leader is not running, so there is nothing to switch over from"]
            )
        case "fence":
            return []
        case "protect":
            wanted = set(many(action.parameters, "synchronous"))
            away = sorted(name for name in wanted if not cluster.runs(name))
            return [f"{name} is not running" for name in away]
        case "rejoin":
            if cluster.leader == _name(action):
                return [f"{cluster.leader} leads {cluster.scope}: another member must be promoted first"]
            known = _name(action) in cluster.members
            return (
                []
                if known
                else [f"{_name(action)} is not a member of {cluster.scope}: check that Patroni is running"]
            )
        case _:
            return [f"{_name(action)} is {cluster.role(_name(action)) or 'unknown'}, which is not expected"]


async def _problems_of_promote(action: Action, cluster: PatroniCluster) -> list[str]:
    proof = text(action.parameters, "proof", "")
    name, old = _name(action), _old_leader(action)
    if proof not in PROOFS | {"demote"}:
        return ["no fence proof that allows freeing Patroni's leader key"]
    if cluster.standby_of:
        state = cluster.members.get(name, {}).get("state", "unknown")
        return [] if cluster.runs(name) else [f"{name} does not run: {state}"]
    problems = _problems_of_candidate(cluster, name)
    if proof == "demote":
        return problems + ([] if cluster.leader else ["there is no leader to switch over from"])
    if cluster.leader and old and cluster.leader != old:
        problems.append(f"the leader is {cluster.leader}, but {old} is the one that was fenced")
    if cluster.leader and await _answers_as_primary(cluster):
        problems.append(f"{cluster.leader} answers as a running primary")
    return problems


async def _answers_as_primary(cluster: PatroniCluster) -> bool:
    """Query the leader's own REST API; a dead one is silent."""
    url = str(cluster.members.get(cluster.leader, {}).get("api_url", ""))
    if not url:
        return False
    try:
        async with Caller() as caller:
            found = (await caller.call("GET", url, timeout_s=PEER_S)).values()
    except (NotReached, NotAnswered, Permanent):
        return False
    return found.get("role") in ("primary", "master") and found.get("state") == "running"


def _is_done(action: Action, order: Order, cluster: PatroniCluster) -> bool:
    name = _name(action)
    match action.verb:
        case "promote":
            leads = cluster.leader == name and cluster.role(name) in ("primary", "master")
            return leads and not cluster.standby_of and cluster.runs(name)
        case "fence":
            return not cluster.leader or (_old_leader(action) not in ("", cluster.leader))
        case "demote":
            claimed = cluster.claim.epoch == order.epoch and cluster.claim.purpose in ("demote", "promote")
            return claimed or (bool(cluster.leader) and cluster.leader != name)
        case "protect":
            wanted = set(many(action.parameters, "synchronous"))
            return cluster.synchronous is bool(wanted) and wanted <= set(cluster.sync)
        case "rejoin":
            return cluster.follows(name) and cluster.role(name) in (
                "replica",
                "sync_standby",
                "standby_leader",
            )
        case _:
            if text(action.parameters, "expect", "primary") == "standby":
                return cluster.follows(name) and name != cluster.leader
            return cluster.leader == name and cluster.runs(name)


def _evidence(action: Action, cluster: PatroniCluster) -> dict[str, str | int | bool]:
    evidence = {**cluster.evidence(), **_warnings(cluster), "member": _name(action)}
    if action.verb == "fence":
        return {
            **evidence,
            "proof": "lease",
            "limits": "a hung Patroni does not demote anything; only a watchdog does",
        }
    if action.verb == "demote":
        return {**evidence, "proof": "demote", "limits": "Patroni demotes it during the switchover"}
    if action.verb == "rejoin":
        return {
            **evidence,
            "limits": "Patroni rewinds by itself; data only on the old primary is lost",
        }
    return evidence


async def _act(dcs: Dcs, action: Action, order: Order, cluster: PatroniCluster) -> str:
    """Start the change, and return how. Its effect is observed in etcd."""
    if action.verb == "protect":
        names = many(action.parameters, "synchronous")
        change: dict[str, Any] = {"synchronous_mode": bool(names), "synchronous_mode_strict": bool(names)}
        if names:
            change["synchronous_node_count"] = len(names)
        await _rest(dcs, action, "PATCH", "/config", change)
        return "config"
    if action.verb != "promote":
        return "waited"
    if cluster.standby_of:
        await _rest(dcs, action, "PATCH", "/config", {"standby_cluster": None})
        return "standby cluster"
    if text(action.parameters, "proof", "") == "demote":
        body = {"leader": cluster.leader, "candidate": _name(action)}
        await _rest(dcs, action, "POST", "/switchover", body)
        return "switchover"
    if cluster.leader and not await dcs.free_leader(cluster, _name(action)):
        raise Retryable("patroni-raced", f"the leader key of {cluster.scope} has changed", after_ms=200)
    return "leader key freed" if cluster.leader else "leader key had expired"


async def _rest(dcs: Dcs, action: Action, method: str, path: str, body: Mapping[str, Any]) -> None:
    """One call of this member's REST API. Raises `Retryable` when refused, `OutcomeUnknown` without a
    response.
    """
    url = text(action.settings, "url").rstrip("/")
    user, reference = text(action.settings, "rest_user", ""), text(action.settings, "rest_password", "")
    secret = resolve(reference) if reference else None
    login = base64.b64encode(f"{user}:{secret.reveal()}".encode()).decode() if secret else ""
    headers = {"Authorization": f"Basic {login}"} if login else {}
    headers["Content-Type"] = "application/json"
    # A switchover responds when complete, at most about 2 x loop_wait later.
    limit = max(0.1, dcs.left_s() - 0.2 if path == "/switchover" else min(REST_S, dcs.left_s()))
    content = json.dumps(body).encode()
    try:
        async with Caller() as caller:
            answer = await caller.call(method, url + path, timeout_s=limit, body=content, headers=headers)
    except NotReached as error:
        raise Retryable("patroni-unreachable", f"{url} cannot be reached", after_ms=300) from error
    except NotAnswered as error:
        raise OutcomeUnknown("patroni-silent", f"{url} did not answer; it may have taken effect") from error
    if answer.status in (401, 403):
        raise Permanent("patroni-refused", f"{url} rejects these credentials")
    if answer.status >= 300:
        words = scrub(answer.body.decode("utf-8", "replace"), [secret] if secret else [])[:300]
        raise Retryable("patroni-refused", f"{url}{path} answered {answer.status}: {words}", after_ms=1_000)
    dcs.changed = True
