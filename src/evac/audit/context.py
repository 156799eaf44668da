"""Input of a rule: the estate, the impacts of every loss, verdicts and chains of causes.

Also formats amounts, times and lists for messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Final

import numpy as np

from evac.audit.findings import DOMAIN_CLASSES, Finding
from evac.audit.impacts.all_losses import DEGRADED, LOST, NOT_PROVED, RECOVERS, SHED, UNKNOWN, Impacts
from evac.audit.impacts.dependencies import Pairs, pairs_of
from evac.audit.impacts.stores import NEVER, Outcome
from evac.audit.reasons import Chain, Reason, ReasonKind, duration
from evac.derive.backups import day_ms, verdicts
from evac.derive.domains import sites_of
from evac.derive.objectives import Rpo, rpos
from evac.derive.pools import replicas_off
from evac.model.backup import NOTHING_SEEN, BackupFacts, DataVerdict, ProofRecord
from evac.model.diagnostic import Severity
from evac.model.estate import DataSet, Estate, Store
from evac.model.fleet import ON_POOL, ON_SERVER, BoolColumn
from evac.model.objectives import LOSS_CLASSES
from evac.model.records import dataclass


def back(ms: int) -> str:
    """When a service is back, if known."""
    return f"is back after {duration(ms)}" if ms < NEVER else "has no known recovery time"


def listed(names: Sequence[str], most: int = 3, count: int | None = None) -> str:
    """`a, b, c and 5 more`; count: the total, if only the first items are given."""
    shown = ", ".join(names[:most])
    rest = (len(names) if count is None else count) - most
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 service`, `12 services`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


_CLASS_RANK: Final = {name: rank for rank, name in enumerate(DOMAIN_CLASSES)}


@dataclass(frozen=True, eq=False)
class Context:
    """Everything a rule may read. as_of: None if no date is known; digest: of the estate, if computed."""

    estate: Estate
    impacts: Impacts
    as_of: date | None = None
    digest: str | None = None
    backups: BackupFacts = NOTHING_SEEN
    """Observations and proofs of backups, beyond the files."""
    at_ms: int | None = None
    """The moment of the audit; None: the start of the day `as_of`."""
    stuck_at: dict[tuple[int, int], Reason | None] = field(default_factory=dict)
    """(loss, service) -> why nothing restores it; None if the cause is another service. Filled on demand."""

    @cached_property
    def data(self) -> tuple[DataVerdict, ...]:
        """State of the backups of each store and data set."""
        day = None if self.as_of is None else day_ms(self.as_of)
        return verdicts(self.impacts.top, self.backups, day if self.at_ms is None else self.at_ms)

    @cached_property
    def firm(self) -> BoolColumn:
        """(S,) services that must not be shed."""
        return np.array([not s.sheddable for s in self.estate.services], np.bool_)

    @cached_property
    def harmless(self) -> BoolColumn:
        """(S,) services of the lowest tier without known users."""
        last = len(self.estate.tier_weights) - 1
        return np.array(
            [s.tier is not None and s.tier >= last and s.people == 0 for s in self.estate.services], np.bool_
        )

    @cached_property
    def gone(self) -> Pairs:
        """Services that nothing restores, except those that depend on a lost provider, which have a rule of
        their own.
        """
        down = self.impacts.damage.pairs
        ours = ~np.isin(down.loss, self.impacts.losses.of_kind("provider"))
        return down.only((down.of(self.impacts.fate) == LOST) & ours)

    @cached_property
    def late(self) -> Pairs:
        """Services that are back after their objective, or not before it if at all, or that a plan sheds."""
        impacts, away = self.impacts, pairs_of(self.impacts.away)
        ready, fate = away.of(impacts.ready_ms), away.of(impacts.fate)
        timed = np.isin(fate, (RECOVERS, DEGRADED)) & (ready < NEVER)
        counts = timed | np.isin(fate, (SHED, NOT_PROVED))
        return away.only(counts & (ready > impacts.rto_at(away.loss, away.service)))

    @cached_property
    def grave(self) -> BoolColumn:
        """(L, S) whether a loss is an error: a service that counts is lost for good or back too late.

        A service that may be shed, or of the lowest tier without users, is never an error by itself; one
        without an objective is one only if nothing restores it.
        """
        found = np.zeros(self.impacts.fate.shape, np.bool_)
        for pairs, counts in ((self.gone, self.firm & ~self.harmless), (self.late, self.firm)):
            grave = pairs.only(counts[pairs.service])
            found[grave.loss, grave.service] = True
        return found

    @cached_property
    def full_sites(self) -> BoolColumn:
        """(sites,) sites that run services: neither witness nor edge."""
        return np.array([s.role == "full" for s in self.estate.sites], np.bool_)

    def takes_all(self, sites: Sequence[str]) -> BoolColumn:
        """(L,) losses that leave none of some sites that run services."""
        index = self.impacts.top.site_index
        full = [index[name] for name in sites if self.full_sites[index[name]]]
        return np.asarray(self.impacts.losses.sites[:, full].all(axis=1), np.bool_)

    def keep_a_copy(self, store: str, number: int, what: str) -> tuple[str, tuple[str, ...]]:
        """What to change so that a store or data set has a copy outside a loss, in words and as fact paths.
        what: a copy that would do.
        """
        every: tuple[Store | DataSet, ...] = (*self.estate.stores, *self.estate.data_sets)
        found = next(one for one in every if one.id == store)
        section, part = ("stores", "members") if isinstance(found, Store) else ("data_sets", "backups")
        allowed = None if found.data_in is None else sites_of(self.estate, found.data_in)
        if allowed is not None and self.takes_all(allowed)[number]:
            where = f"Allow the data of {store} at a site that fails independently (`data_in`)"
            return f"{where}, and keep {what} there.", (f"{section}/{store}/data_in", f"{section}/{store}")
        return f"Keep {what} at another site.", (f"{section}/{store}/{part}", f"{section}/{store}")

    @cached_property
    def runs_at(self) -> BoolColumn:
        """(sites, S) where a service runs; edge sites are omitted if it also runs at a full site."""
        at = np.asarray(self.impacts.presence.per_site > 0)
        full = np.asarray(at & self.full_sites[:, None])
        somewhere = np.asarray(full.any(axis=0))
        return np.where(somewhere[None, :], full, at)

    @cached_property
    def only_site(self) -> list[int]:
        """Index of the only site of each service; -1 if there are several, or none is known."""
        counts = self.runs_at.sum(axis=0)
        if not self.runs_at.size:
            return [-1] * len(self.estate.services)
        found: list[int] = np.where(counts == 1, self.runs_at.argmax(axis=0), -1).tolist()
        return found

    @cached_property
    def loss_rank(self) -> list[tuple[int, int]]:
        """Severity of each loss's kind, then its number."""
        return [(_CLASS_RANK[kind], number) for number, kind in enumerate(self.impacts.losses.kinds)]

    def worst_first(self, numbers: Iterable[int]) -> list[int]:
        """Losses by kind: sites, groups, halls, feeds, racks."""
        return sorted(numbers, key=lambda n: self.loss_rank[n])

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.impacts.losses.ids[n] for n in numbers)

    def outcomes(self, store: int) -> list[tuple[int, Outcome]]:
        """(loss, outcome) of the losses that take a store: its primary, its majority or all of it."""
        return [(n, found) for n, found in self.impacts.stores.of(store) if found.lost]

    def rpo_for(self, store: int, number: int) -> Rpo:
        """How much data a store may lose with a loss."""
        return rpos(self.impacts.top, LOSS_CLASSES[self.impacts.losses.classes[number]])[store]

    @cached_property
    def above_rpo(self) -> dict[int, list[tuple[int, Outcome]]]:
        """Store -> (loss, outcome) of the losses after which its best copy lacks, or may lack, more than its
        limit. Stores that are rebuilt instead are left out.
        """
        found = {}
        by_class = zip(*(rpos(self.impacts.top, one) for one in LOSS_CLASSES), strict=True)
        for row, (store, limits) in enumerate(zip(self.estate.stores, by_class, strict=True)):
            least = min((one.limit_ms for one in limits if one.limit_ms is not None), default=None)
            outcomes = self.impacts.stores.parts[row].outcomes
            if store.rebuilt_from is not None or not any(one.exceeds(least) for one in outcomes):
                continue
            beyond = [(n, o) for n, o in self.outcomes(row) if o.exceeds(self.rpo_for(row, n).limit_ms)]
            if beyond:
                found[row] = beyond
        return found

    def family_gone(self, store: int, number: int) -> bool:
        """Whether a loss leaves no other instance of the store's family."""
        stores = self.impacts.graph.family_stores[self.estate.stores[store].family]
        return bool(self.impacts.stores.lost[number, list(stores)].all())

    @cached_property
    def users_of_data(self) -> dict[str, tuple[int, ...]]:
        """Store or data set -> services that hard-need it, or that it lists as users."""
        index = self.impacts.graph.index
        stores = {store.id: self.users_of.get(store.family, ()) for store in self.estate.stores}
        others = {data.id: tuple(index[name] for name in data.used_by) for data in self.estate.data_sets}
        return stores | others

    def data_needed_by(self, service: int) -> frozenset[str]:
        """Stores and data sets without which a service does not work, directly or through others."""
        graph, reached, work = self.impacts.graph, {service}, [service]
        while work:
            for other in graph.hard[work.pop()]:
                if other not in reached:
                    reached.add(other)
                    work.append(other)
        return frozenset(name for name, users in self.users_of_data.items() if not reached.isdisjoint(users))

    @cached_property
    def users_of(self) -> dict[str, tuple[int, ...]]:
        """Store family -> services that hard-need it."""
        found: dict[str, list[int]] = {}
        for service, families in enumerate(self.impacts.graph.families):
            for family in families:
                found.setdefault(family, []).append(service)
        return {family: tuple(services) for family, services in found.items()}


def data_paths(verdict: DataVerdict, number: int | None = None, part: str = "backups") -> tuple[str, ...]:
    """Fact paths of the backups of some data, the most exact first. number: of one backup."""
    path = f"{'stores' if verdict.kind == 'store' else 'data_sets'}/{verdict.data_set}"
    exact = () if number is None else (f"{path}/backups/{number}",)
    return (*exact, f"{path}/{part}", path)


def day_of(proof: ProofRecord) -> str:
    """The date of a check: `2026-11-25`."""
    return datetime.fromtimestamp(proof.at_ms / 1_000, UTC).date().isoformat()


def by_service(pairs: Pairs) -> Iterator[tuple[int, list[int]]]:
    """(service, losses) of pairs, for the services with any."""
    if not len(pairs):
        return
    service, loss = pairs.service, pairs.loss.tolist()
    edges = np.flatnonzero(np.diff(service, prepend=-1)).tolist()
    names = service[edges].tolist()
    for name, first, last in zip(names, edges, [*edges[1:], len(loss)], strict=True):
        yield name, loss[first:last]


@dataclass(frozen=True, slots=True)
class Rule:
    """A check with a stable name."""

    id: str
    code: str
    title: str
    check: Callable[[Context], Iterable[Finding]]
    per_loss: bool = True
    """Whether it depends on a loss, and so also checks pairs of losses."""
    alerts: bool = False
    """Of backup rules: its warnings alert like errors once evac itself watches backups."""

    def finding(
        self,
        context: Context,
        severity: Severity,
        subject: str,
        message: str,
        fix: str,
        *,
        losses: Sequence[int] = (),
        chain: tuple[str, ...] = (),
        paths: Sequence[str] = (),
        roots: Sequence[str] = (),
    ) -> Finding:
        """Make a finding. `losses`: numbers, worst first; `paths`: fact paths of the subject, the first known
        one is shown; `roots`: fact paths of a cause elsewhere, the one to change first comes first and the
        thing itself last.
        """
        roots = tuple(roots or paths)
        return Finding(
            rule=self.id,
            code=self.code,
            severity=severity,
            subject=subject,
            message=message,
            fix=fix,
            domains=context.names(losses),
            domain_class=context.impacts.losses.kinds[losses[0]] if losses else "estate",
            chain=chain,
            path=paths[0] if paths else "",
            paths=tuple(paths),
            place=context.estate.place(*paths),
            root=roots[-1] if roots else "",
            key=roots[0] if roots else "",
            key_place=context.estate.place(*roots).to_change,
        )


Edges = tuple[tuple[int, ...], ...]
"""Services that each service needs, by number."""


def chain_to(
    context: Context, service: int, goal: Callable[[int], bool], number: int | None = None
) -> tuple[int, ...]:
    """Shortest path of hard dependencies from a service to one that meets a goal; empty if none. number: of a
    loss; the path then contains only what is down, including alternatives that are all down.
    """
    graph = context.impacts.graph
    down = None if number is None else context.impacts.down[number]
    before: dict[int, int] = {service: -1}
    work = deque([service])
    while work:
        node = work.popleft()
        if goal(node):
            path = [node]
            while before[path[-1]] >= 0:
                path.append(before[path[-1]])
            return tuple(reversed(path))
        for other in graph.hard[node] if down is None else graph.lacking(node, down):
            if other not in before:
                before[other] = node
                work.append(other)
    return ()


def why_down(context: Context, service: int, number: int) -> Chain:
    """Path from a service to what the loss takes."""
    direct = context.impacts.direct[number]
    path = chain_to(context, service, lambda node: bool(direct[node]), number)
    return Chain(_ids(context, path), _why_hit(context, path[-1], number) if path else None)


def _ids(context: Context, path: Iterable[int]) -> tuple[str, ...]:
    return tuple(context.estate.services[node].id for node in path)


def _why_hit(context: Context, service: int, number: int) -> Reason:
    """Why a service itself is down: its replicas, its store or its traffic."""
    impacts, loss = context.impacts, context.impacts.losses.ids[number]
    if impacts.losses.external[number, service]:
        return Reason("provider", loss)
    for family in impacts.graph.families[service]:
        row = impacts.families.index.get(family)
        if row is not None and number in impacts.families.losses[row]:
            return _why_store(context, family, number)
    left = impacts.left(number, service)
    if impacts.lost[number, service] and left < impacts.presence.m[service]:
        if impacts.lost[number, service] == impacts.presence.off[service]:
            return _why_off(context, service, number)
        if not impacts.presence.counted[service]:
            return Reason("single-place", loss)
        n, m = int(impacts.presence.n[service]), int(impacts.presence.m[service])
        return Reason("too-few-replicas", loss, replicas=left, of=n, needed=m)
    return Reason("traffic", loss)


def _why_off(context: Context, service: int, number: int) -> Reason:
    """Why replicas are down although the loss takes none of them: their servers are off."""
    estate, loss = context.estate, context.impacts.losses.ids[number]
    replicas = estate.replicas
    off = (replicas_off(context.impacts.top) > 0) & (replicas.service == service)
    servers = np.unique(replicas.target[off & (replicas.kind == ON_SERVER)]).astype(np.int32)
    pools = np.unique(replicas.target[off & (replicas.kind == ON_POOL)]).tolist()
    places = [*estate.fleet.server_names(servers[:3]), *(estate.pools[row].id for row in pools)]
    names = listed(places[:3], count=len(servers) + len(pools))
    left, n = context.impacts.left(number, service), int(context.impacts.presence.n[service])
    return Reason("servers-off", loss, replicas=left, of=n, servers=names)


def _why_store(context: Context, family: str, number: int) -> Reason:
    """Why a loss leaves a family without a store: lost, or being rebuilt because no copy is left."""
    impacts, loss = context.impacts, context.impacts.losses.ids[number]
    if not impacts.families.is_rebuilt(family, number):
        kinds = {_what_is_lost(impacts.stores.at(n, number)) for n in impacts.graph.family_stores[family]}
        return Reason(kinds.pop() if len(kinds) == 1 else "store-lost", loss, _stores(context, family))
    stores = [context.estate.stores[store] for store in impacts.graph.family_stores[family]]
    one = min((one for one in stores if one.rebuilt_from), key=lambda one: one.rebuild_ms or 0)
    return Reason("store-rebuilt", loss, (one.id,), source=one.rebuilt_from or "", takes_ms=one.rebuild_ms)


def _what_is_lost(found: Outcome | None) -> ReasonKind:
    """Why a store accepts no writes after a loss that takes part of it."""
    if found is None or not found.data_members_left:
        return "store-lost"
    if found.keeps_primary:
        return "commits-wait"
    return "primary-lost" if found.has_majority else "votes-lost"


def _source_gone(context: Context, family: str, number: int) -> str:
    """The family to rebuild from, if that does not come back either; else empty."""
    impacts, stores = context.impacts, context.estate.stores
    rows = impacts.graph.family_stores[family]
    sources, families = sorted({stores[row].rebuilt_from or "" for row in rows} - {""}), impacts.families
    return next((name for name in sources if number in families.losses[families.index[name]]), "")


def _stores(context: Context, family: str) -> tuple[str, ...]:
    stores = context.estate.stores
    return tuple(stores[store].id for store in context.impacts.graph.family_stores[family])


def root_paths(context: Context, name: str) -> tuple[str, ...]:
    """Fact paths of a service, or of the first store of a family: where it runs, then the thing itself."""
    if name in context.impacts.graph.index:
        return (f"services/{name}/replicas", f"services/{name}")
    store = _stores(context, name)[0]
    return (f"stores/{store}/members", f"stores/{store}")


def why_degraded(context: Context, service: int, number: int) -> Chain:
    """Path from a degraded service to the cause: replicas it lost, or a soft dependency that is down."""
    impacts, name = context.impacts, context.estate.services[service].id
    if impacts.lost[number, service]:
        left, n = impacts.left(number, service), int(impacts.presence.n[service])
        if impacts.lost[number, service] == impacts.presence.off[service]:
            return Chain((name,), _why_off(context, service, number))
        return Chain((name,), Reason("fewer-replicas", impacts.losses.ids[number], replicas=left, of=n))
    for other in impacts.graph.soft[service]:
        if impacts.down[number, other]:
            found = why_down(context, other, number)
            return Chain((name, *found.services), found.reason)
    wanted = [*impacts.graph.soft[service], *_soft_alternatives(context, service)]
    doubtful = [context.estate.services[n].id for n in wanted if impacts.fate[number, n] == UNKNOWN]
    return Chain(
        (name,),
        Reason("unjudged-need", impacts.losses.ids[number], services=(*doubtful[:1],)) if doubtful else None,
    )


def _soft_alternatives(context: Context, service: int) -> tuple[int, ...]:
    groups = context.impacts.graph.alternatives[service]
    return tuple(member for group in groups if not group.hard for member in group.members)


def why_lost(context: Context, service: int, number: int) -> Chain:
    """Path from a service that never comes back to the first that cannot come back by itself."""
    path = chain_to(context, service, lambda node: _stuck(context, node, number) is not None, number)
    if not path:
        return why_down(context, service, number)
    return Chain(_ids(context, path), _stuck(context, path[-1], number))


def why_by_plan(context: Context, service: int, number: int) -> Chain:
    """Why a plan sheds a service or cannot place it; just the service if nothing more is known."""
    planned = context.impacts.reasons.get((number, service))
    loss = context.impacts.losses.ids[number]
    reason = None if planned is None else Reason("by-plan", loss, planned=planned.words)
    return Chain((context.estate.services[service].id,), reason)


def _stuck(context: Context, service: int, number: int) -> Reason | None:
    """Why nothing restores a service that is lost itself; None if another service is the cause."""
    if (number, service) not in context.stuck_at:
        impacts = context.impacts
        itself = impacts.direct[number, service] and impacts.fate[number, service] == LOST
        context.stuck_at[number, service] = _why_stuck(context, service, number) if itself else None
    return context.stuck_at[number, service]


def _why_stuck(context: Context, service: int, number: int) -> Reason | None:
    impacts, loss = context.impacts, context.impacts.losses.ids[number]
    for family in impacts.graph.families[service]:
        row = impacts.families.index.get(family)
        if row is None or number not in impacts.families.losses[row]:
            continue
        place = int(impacts.families.losses[row].searchsorted(number))
        if impacts.families.ready_ms[row][place] >= NEVER:
            for _ in impacts.families.names:
                family = _source_gone(context, family, number) or family
            stores = impacts.graph.family_stores[family]
            outcomes = [impacts.stores.at(store, number) for store in stores]
            return _no_copy(context, number, family, [one for one in outcomes if one is not None])
    planned = impacts.reasons.get((number, service))
    vague = planned is None or planned.kind in ("no-capacity", "capacity-not-found")
    if planned is None or (vague and not (planned.supply or planned.fact)):
        short = impacts.capacity.short.get(number)
        if short is not None and short.for_good[service] > 0:
            return Reason("no-headroom", loss, replicas=int(short.for_good[service]))
        missing = impacts.lost[number, service] and impacts.left(number, service) == 0
        if missing and not impacts.capacity.headroom_known[number, service]:
            return Reason("nowhere-else", loss)
    circle = _start_circle(context, service, number)
    if circle:
        return Reason("start-cycle", loss, services=circle)
    if impacts.chains.tool_ready["start"][number] >= NEVER and "start" not in impacts.times.manual:
        return Reason("tools-lost", loss, services=impacts.starting_gone(number))
    return None if planned is None else Reason("by-plan", loss, planned=planned.words)


def _no_copy(context: Context, number: int, family: str, outcomes: Sequence[Outcome]) -> Reason:
    """Why no store of a family comes back: its votes, or what its copies lack."""
    loss, stores = context.impacts.losses.ids[number], _stores(context, family)
    if any(not one.has_majority and one.data_members_left for one in outcomes):
        return Reason("majority-lost", loss, stores)
    limits = [context.rpo_for(row, number) for row in context.impacts.graph.family_stores[family]]
    stated = [one.words for one in limits if one.limit_ms is not None]
    return Reason("no-copy", loss, stores, rpo=stated[0] if stated else "")


def _start_circle(context: Context, service: int, number: int) -> tuple[str, ...]:
    """The services in a start cycle with one that can never start; empty if there is none, or people can
    break it.
    """
    impacts, damage = context.impacts, context.impacts.damage
    rows = damage.rows_of(number)
    mine = rows[damage.pairs.service[rows] == service]
    if impacts.times.start_cycle is not None or not damage.circle[mine].any():
        return ()
    return _ids(context, impacts.order.members[impacts.order.component[service]])


def start_circles(context: Context) -> list[list[int]]:
    """Services that need each other, at least one of them to start; each cycle in walking order."""
    order, graph = context.impacts.order, context.impacts.graph
    inner = {
        order.component[service]
        for service, needed in enumerate(graph.start_edges)
        if any(order.component[other] == order.component[service] for other in needed)
    }
    return circles([order.members[own] for own in sorted(inner)], graph.hard)


def circles(groups: Iterable[Sequence[int]], edges: Edges) -> list[list[int]]:
    """Components of more than one service, or of one that needs itself; each in walking order."""
    found = [group for group in groups if len(group) > 1 or group[0] in edges[group[0]]]
    return sorted(_walk(group, edges) for group in found)


def _walk(group: Sequence[int], edges: Edges) -> list[int]:
    """Members along their edges from the first, followed by those that a single walk misses."""
    inside, path = set(group), [group[0]]
    while True:
        following = [other for other in edges[path[-1]] if other in inside and other not in path]
        if not following:
            return path + [service for service in group if service not in path]
        path.append(following[0])
