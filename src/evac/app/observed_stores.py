"""Shared observations beyond the files: the situation, and standing facts of stores.

observed             roles of every store, as last seen with exactly one primary; what is lost; which runs
                     moved something, stores with more than one writable member, how many replicas of
                     services drivers are set to run, and where they send users
standing/<store>     facts of synchronous replication, checked while all was well
sighting/<store>     site of the primary at the last observation, and until when each copy has all data

The leader writes them and every controller reads them, so a new leader knows the state before the fire. An
observation with no primary, or two, changes nothing: the last certain roles apply. The exception is an epoch
settled since: then its holder is the primary, even if it burnt before anyone saw it as such.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from evac.app.commits import Commits, never_confirm_in
from evac.app.observed_replicas import SeenReplicas
from evac.app.observed_traffic import SeenTraffic
from evac.app.observing import is_replaced, observe, runs_at, standing_facts
from evac.app.published import KEY, Published, changes_in, digest_in, encode
from evac.app.quiet_looks import after_runs
from evac.app.store_alarms import StoreAlarms
from evac.backup.evidence import BackupsReader
from evac.derive import situation
from evac.derive.domains import topology
from evac.derive.listed_backups import with_backups
from evac.derive.stores import observed, primary_site
from evac.drivers.registry import Drivers
from evac.engine.clock import Clock, RunClock
from evac.engine.runs.effects import EffectsReader
from evac.engine.runs.live_actions import PREFIX, Standing, decode_standing, keep_standing
from evac.engine.stores.datasets import DataSets, Epoch, Epochs
from evac.engine.stores.sightings import PREFIX as SIGHTING
from evac.engine.stores.sightings import Following, Sighting, again, losses_of, read_sightings, sighted, still
from evac.model.digest import estate_digest
from evac.model.errors import Corrupt, EvacError, NotAllowed, Unavailable
from evac.model.estate import Estate
from evac.model.observation import MemberSeen, Observation, Role
from evac.model.plan import Plan
from evac.model.run_policy import RunPolicy
from evac.model.situation import Silent, recorded
from evac.run.data_loss import Loss
from evac.store.port import MAX_CHANGES, Lease, Put, Store, all_entries
from evac.watch.verdict import SiteState

PERIOD_S: Final = 2.0
LEAST_S: Final = 0.25
STANDING_S: Final = 5.0
SOON_S: Final = 0.25
"""First delay after a check found less than policy requires; it doubles up to the usual interval."""
_DETACHED_STEPS_MS: Final = (10_000, 60_000, 900_000, 3_600_000, 86_400_000)
"""Lags reported for a copy without a primary, in coarse steps; beyond the last: unknown."""


class SeenEstate:
    """The estate as last seen, and its digest; the same in every controller a moment later."""

    def __init__(
        self, estate: Estate, policy: RunPolicy, store: Store, drivers: Drivers, clock: Clock
    ) -> None:
        self._files, self._policy, self._store = estate, policy, store
        self._drivers, self._clock = drivers, clock
        self.observation = self.looked = Observation(0)
        self.estate = estate
        self.digest = estate_digest(estate)
        self._standing: dict[str, Standing] = {}
        self._known_since: dict[str, tuple[Standing, int]] = {}
        self._read_at_ms: int | None = None
        self._sighted_at_ms: int | None = None
        self._steady = RunClock(clock)
        self._sightings: dict[str, Following] = {}
        self._kept: dict[str, tuple[int, int, int]] = {}
        self._check_s, self._told_digest = SOON_S, ""
        self._heeded: dict[str, int] | None = None
        self._effects = EffectsReader(store)
        self._is_late = asyncio.Event()
        self._published = Published(store)
        self._backups = BackupsReader(store, clock)
        self._alarms = StoreAlarms()
        self._replicas = SeenReplicas(store, drivers, clock, self.behind)
        self._traffic = SeenTraffic(store, drivers, clock, self.behind)
        self.commits = Commits(
            clock, lambda: self._files, lambda: self.estate.lost, lambda: self._policy.profile
        )
        self.states: Callable[[], Mapping[str, SiteState]] = dict
        """Verdicts on sites, where sites are watched."""
        self._obeyed, self._looked_in = dict[str, int](), -1
        self._began_ms = -1
        """When the last complete observation began, by the monotonic clock."""

    def has_looked(self, guard: Lease) -> bool:
        """Whether this process has observed the roles of stores in this term."""
        return self._looked_in == guard.token

    def looked_in(self, guard: Lease) -> Observation | None:
        """The latest answers of the members themselves, None before the first ones of this term."""
        return self.looked if self.has_looked(guard) else None

    def obeyed(self, store: str) -> int:
        """The highest epoch that a member is known to have obeyed: a store that replaces a lost one starts
        above it.
        """
        return self._obeyed.get(store, 0)

    def primary_of(self, name: str) -> str:
        """The site of a store's primary; empty if there is none, or no such store."""
        store = next((one for one in self.estate.stores if one.id == name), None)
        return "" if store is None else primary_site(topology(self.estate), store)

    async def see(self) -> Observation:
        """Observe the real systems, and note what their members have obeyed."""
        now = await observe(self._files, self._drivers, self._clock.now_ms())
        for member in now.members:
            self._obeyed[member.store] = max(self.obeyed(member.store), member.epoch)
        return now

    @property
    def files(self) -> Estate:
        """The estate as in its files, without observations."""
        return self._files

    async def adopt(self, estate: Estate, with_it: Callable[[], None]) -> None:
        """Switch to other files, keeping the roles as last seen; long computations run off the event loop.
        with_it: applies changes at the same moment; if it raises, nothing changes.
        """
        while True:
            seen = self.observation
            now, digest = await asyncio.to_thread(_as_seen, estate, seen)
            if seen.facts == self.observation.facts:
                break
        with_it()
        self._files, self.estate, self.digest = estate, now, digest

    def rule(self, policy: RunPolicy) -> None:
        """Use this policy from now on."""
        self._policy = policy

    def standing(self, store: str) -> Standing | None:
        """Standing facts as last read, dated by this controller's clock, because the writer's clock may have
        jumped. A fact stored before this controller's first read keeps the writer's date.
        """
        fact = self._standing.get(store)
        known, since_ms = self._known_since.get(store, (None, 0))
        if fact is None or known != fact:
            return fact
        return replace(fact, at_ms=self._clock.now_ms() - (self._clock.monotonic_ms() - since_ms))

    def _note_standing(self, facts: Mapping[str, Standing], not_before_ms: int | None) -> None:
        """Date new facts from `not_before_ms`, the last moment at which they were not there."""
        for name, fact in facts.items():
            if not_before_ms is not None and self._standing.get(name) != fact:
                self._known_since[name] = (fact, not_before_ms)

    async def follow(self) -> None:
        """Read what the leader wrote, until cancelled."""
        while True:
            with contextlib.suppress(Unavailable, Corrupt):
                await self.read()
            await asyncio.sleep(PERIOD_S / 4)

    async def read(self) -> None:
        began_ms = self._clock.monotonic_ms()
        entry = await self._store.get(KEY)
        if entry is not None:
            self._take(await self._published.read(entry.value))
            self._told_digest = digest_in(entry.value)
            self._heeded = changes_in(entry.value)
        facts: dict[str, Standing] = {}
        for one in await all_entries(self._store, PREFIX):
            name = one.key.removeprefix(PREFIX)
            with contextlib.suppress(EvacError):
                facts[name] = decode_standing(name, one.value)
        self._note_standing(facts, self._read_at_ms)
        self._standing = facts  # deleted facts no longer count
        self._read_at_ms = began_ms
        began_ms = self._steady.now_ms()
        for name, sighting in (await read_sightings(self._store)).items():
            self._sightings.setdefault(name, Following()).read(sighting, self._sighted_at_ms)
        self._sighted_at_ms = began_ms

    async def begin(self) -> None:
        """Load what earlier controllers stored; if there is nothing, observe once, so that plans of the real
        state fit from the start.
        """
        with contextlib.suppress(Unavailable, Corrupt):
            await self.read()
        if not self.observation.members:
            effects = recorded(await self._effects.read(self._clock.now_ms()))
            looked = await self.see()
            backups = (await self._backups.read()).facts
            seen = after_runs(merged(self.observation, looked), self.observation, effects)
            self._take(with_backups(seen, backups, self._clock.now_ms()))

    async def look(self, guard: Lease) -> NotAllowed | None:
        """One observation of the real systems by the leader, written if roles changed. Silent servers
        lengthen an observation, not the interval between two. Results of runs are read before the systems are
        queried, so that what is known of an ended run is never newer than the roles it left.

        Returns a refusal if the epoch of a store cannot be read: its roles stay as last seen.
        """
        self._is_late.clear()
        began_ms, at_ms = self._clock.monotonic_ms(), self._steady.now_ms()
        effects = recorded(await self._effects.read(self._clock.now_ms()))
        sets = DataSets(self._store, "", self._clock)
        before = await sets.read_all()
        now = self.looked = await self.see()
        self.commits.note(now, guard.token)
        await self._keep_sightings(now, at_ms, guard)
        epochs = await sets.read_all()
        seen = aged(self._with_roles(now, epochs), self._sightings)
        seen = with_backups(seen, (await self._backups.read()).facts, self._clock.now_ms())
        rivals, silent = self._alarms.rivals(now, self.observation.rivals), self._silent(now, seen, epochs)
        seen = replace(
            seen,
            units=self._replicas.known(self._files, self.observation, effects),
            traffic=self._traffic.known(self._files, self.observation, effects),
            effects=effects,
            rivals=rivals,
            silent=silent,
        )
        heeded = self._heeded_in(before, epochs)
        same = seen.facts == self.observation.facts and self._heeded == heeded
        same = same and (seen.rivals, seen.silent) == (self.observation.rivals, self.observation.silent)
        if not same or self._told_digest not in ("", self.digest):
            files = self._files
            estate, digest = _as_seen(files, seen)
            await self._store.transact((), (Put(KEY, encode(seen, digest, heeded)),), guard)
            self._told_digest, self._heeded = digest, heeded
            if files is self._files:
                self.observation, self.estate, self.digest = seen, estate, digest
            else:  # other files were adopted meanwhile; the next observation covers them
                self._take(seen)
        self._looked_in, self._began_ms = guard.token, began_ms
        took_s = (self._clock.monotonic_ms() - began_ms) / 1_000
        await asyncio.sleep(LEAST_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, PERIOD_S - LEAST_S - took_s)):
                await self._is_late.wait()
        return epochs.refusal()

    @property
    def chores(self) -> tuple[Callable[[Lease], Awaitable[NotAllowed | None]], ...]:
        """What a leader does over and over."""
        return self.look, self.look_at_replicas, self.look_at_traffic, self.check_standing

    async def look_at_replicas(self, guard: Lease) -> None:
        """One look at how many replicas drivers are set to run; the next observation counts it."""
        await asyncio.sleep(
            await self._replicas.look(self._files, lambda: (self.observation, self.states()), guard)
        )

    async def look_at_traffic(self, guard: Lease) -> None:
        """One look at where drivers are set to send users; the next observation counts it."""
        await asyncio.sleep(await self._traffic.look(self._files, lambda: (self.observation, self.states())))

    def _heeded_in(self, before: Epochs, after: Epochs) -> dict[str, int]:
        """How often the roles of each store had changed before this observation; of one that could not be
        read then or after it, as last known, because its roles stay as they were.
        """
        unread = before.unreadable.keys() | after.unreadable.keys()
        kept = {name: times for name, times in (self._heeded or {}).items() if name in unread}
        read = {name: epoch.changes for name, epoch in before.known.items() if name not in unread}
        return kept | {name: changes for name, changes in read.items() if changes}

    def _with_roles(self, now: Observation, epochs: Epochs) -> Observation:
        holders = {epoch.store: epoch.holder for epoch in epochs.known.values() if epoch.holder}
        newer = {epoch.store: epoch.holder for epoch in self._unheeded(epochs.known)}
        return merged(self.observation, now, holders, newer, epochs.unreadable)

    def _silent(self, now: Observation, seen: Observation, found: Epochs) -> tuple[Silent, ...]:
        """Stores whose primary is silent. seen: the roles that are certain after this observation. No run
        changes the roles of a store whose epoch cannot be read.
        """
        epochs = found.known
        moving = {epoch.store for epoch in epochs.values() if not epoch.settled}
        homes = {store.id: store.primary.at for store in self._files.stores if store.primary is not None}
        homes |= {epoch.store: epoch.holder for epoch in epochs.values() if epoch.holder}
        at_ms, known = self._clock.monotonic_ms(), self.observation.silent
        certain = observed(self.estate, seen)
        states, believed_ms = self.states(), self._believed_ms
        return self._alarms.silent(certain, now, known, moving, states, at_ms, believed_ms, homes)

    def _unheeded(self, epochs: Mapping[str, Epoch]) -> list[Epoch]:
        """Those that changed since before the last observation; None if no one recorded what that one
        knew.
        """
        known = self._heeded
        changed = (e for e in epochs.values() if known is not None and e.changes > known.get(e.store, 0))
        return [epoch for epoch in changed if epoch.holder]

    @property
    def never_confirm(self) -> frozenset[tuple[str, str]]:
        """Store and site of each copy that was last seen set not to confirm commits."""
        return never_confirm_in(self.looked)

    async def behind(self, sites: Collection[str]) -> bool:
        """Whether a run ended, or a store got its primary at one of these sites, since the last observation:
        a plan from present knowledge would miss what was moved. The next observation knows it, and starts at
        once.

        Without sites (a plan of a person): also whether a mark that the plan depends on was set or cleared.

        Raises NotAllowed for a plan of a person if an epoch cannot be read: whether the store moved is
        unknown, so no plan counts as up to date. Plans of evac for other stores do not wait for it, because
        what may not move then is refused on its own.
        """
        epochs = await DataSets(self._store, "", self._clock).read_all()
        if not sites:
            epochs.refuse()
        late = any(epoch.holder in sites for epoch in self._unheeded(epochs.known))
        if late or await self._effects.has_newer(self.observation.effects, with_marks=not sites):
            self._is_late.set()
            return True
        return False

    async def runs_at(self, site: str) -> tuple[Collection[str], Collection[str]]:
        """Units and stores at a site that may run again: nothing while the outcome of a run is unknown, and
        no store whose epoch cannot be read.
        """
        if await self.behind((site,)):
            return (), ()
        unreadable = (await DataSets(self._store, "", self._clock).read_all()).unreadable
        units, stores = runs_at(self._files, self.observation, site)
        return units, set(stores) - unreadable.keys()

    def unsure(self, since_ms: int, gone: Collection[str]) -> bool:
        """Whether the last observation began before since_ms (monotonic), or a member at a site that is not
        gone did not answer it. The next one then starts at once.
        """
        silent = {one.site for one in self.looked.members if one.role == "unreachable"}
        if self._began_ms >= since_ms and silent <= {*gone, *self._sites_lost()}:
            return False
        self._is_late.set()
        return True

    def _sites_lost(self) -> frozenset[str]:
        return frozenset(site for site, state in self.states().items() if state == "lost")

    async def _keep_sightings(self, now: Observation, at_ms: int, guard: Lease) -> None:
        """Write sightings after each observation that saw a primary: their age is the possible data loss.
        at_ms: start of the observation, by the steady clock. A sighting whose write is uncertain does not
        count as kept.
        """
        new: list[Sighting] = []
        for store, members in _by_store(now).items():
            before = self._sightings.setdefault(store, Following()).known
            after = sighted(before, store, tuple(members.values()), at_ms)
            if after is not None and after is not before:
                token, last_ms, kept_ms = self._kept.pop(store, (0, 0, 0))
                kept = (last_ms, kept_ms) if token == guard.token else (0, 0)
                new.append(replace(after, token=guard.token, kept=kept))
        for i in range(0, len(new), MAX_CHANGES):
            some = new[i : i + MAX_CHANGES]
            for one in some:
                self._sightings[one.store].wrote(one)
            puts = tuple(Put(SIGHTING + one.store, one.encode()) for one in some)
            await self._store.transact((), puts, guard)
            for one in some:
                self._kept[one.store] = (guard.token, one.at_ms, self._steady.now_ms())

    def losses(self, plan: Plan) -> Mapping[str, Loss]:
        """The most that each promotion of a plan can lose if its fence completes as planned; by the current
        wall clock, as in the journal of a new run.
        """
        now_ms = self._clock.now_ms()
        by_ms = now_ms - self._steady.now_ms()
        seen = {name: one.known.moved(by_ms) for name, one in self._sightings.items() if one.known}
        return losses_of(self.estate, plan, seen, now_ms, self.observation.members)

    def loss(self, known: Loss, until_ms: int, ago_ms: int) -> Loss:
        """The loss of a promotion as known when its run was made, from current sightings. until_ms: by the
        clock of the run; ago_ms: how long ago that was.
        """
        followed = self._sightings.get(known.store)
        if followed is None or followed.known is None:
            return again(known, None, until_ms)
        by_ms = until_ms + ago_ms - self._steady.now_ms()
        return still(known, followed.known.moved(by_ms), until_ms, until_ms + ago_ms)

    @property
    def _believed_ms(self) -> int:
        return self._policy.profile.suspect_ms + self._policy.profile.confirm_ms

    async def check_standing(self, guard: Lease) -> None:
        """Check what may serve as a fence, and write it with its time; facts that fail the check age. Results
        from before a store began to change are not written after it.
        """
        began_ms = self._clock.monotonic_ms()
        epochs, unreadable = await DataSets(self._store, "", self._clock).read_all()
        facts = await standing_facts(self.estate, self._policy, self._drivers, self._clock.now_ms, epochs)
        for fact in facts:
            before = epochs.get(fact.store, Epoch(fact.store))
            if fact.store not in unreadable and await keep_standing(self._store, fact, before, guard):
                self._note_standing({fact.store: fact}, began_ms)
                self._standing[fact.store] = fact
            else:
                self._standing.pop(fact.store, None)
        await asyncio.sleep(self._until_next_check(len(facts)))

    def _until_next_check(self, found: int) -> float:
        """Seconds until the next check. A fire before the first proof waits for a person, so the first is
        sought often.
        """
        wanted = sum("sync" in self._policy.store(store.id).proofs for store in self.estate.stores)
        if found >= wanted:
            self._check_s = SOON_S
            return STANDING_S
        self._check_s = min(STANDING_S, self._check_s * 2)
        return self._check_s

    def _take(self, seen: Observation) -> None:
        if seen.facts == self.observation.facts:
            self.observation = replace(self.observation, rivals=seen.rivals, silent=seen.silent)
            return
        self.observation = seen
        self.estate, self.digest = _as_seen(self._files, seen)


def _as_seen(files: Estate, seen: Observation) -> tuple[Estate, str]:
    """The estate as it is now, and its digest."""
    estate = situation.of(files, seen).estate
    return estate, estate_digest(estate)


def merged(
    before: Observation,
    now: Observation,
    holders: Mapping[str, str] | None = None,
    newer: Mapping[str, str] | None = None,
    unknown: Collection[str] = (),
) -> Observation:
    """Roles after another observation: as seen now for a store with one certain primary, else as before. Lags
    are omitted, so that they do not make a plan stale.

    holders: store -> site of its primary according to the last settled epoch. A primary elsewhere is certain
    only if the holder's own copy responds and is not primary; otherwise a returning old primary would be
    believed while the true one burns. newer: holders settled after `before`: without a certain primary, that
    holder is it, unless its copy responds that it is not. unknown: stores whose epoch cannot be read; none
    of their primaries is certain.

    A reconnecting synchronous copy is still synchronous while its primary waits for it: nothing was
    acknowledged without it.
    """
    old = _by_store(before)
    found: list[MemberSeen] = []
    for store, members in sorted(_by_store(now).items()):
        known, holder = old.get(store, {}), (newer or {}).get(store, "")
        certain = store not in unknown and _is_certain(members, (holders or {}).get(store, ""))
        trusted = holder in members and members[holder].role in ("unreachable", "primary")
        if not certain and trusted and not _is_primary(known.get(holder)):
            found += [_led_by(holder, member, known.get(site)) for site, member in sorted(members.items())]
            continue
        for site, member in sorted(members.items()):
            was = known.get(site)
            if not certain:
                found += [was] if was is not None else []
            elif was is not None and _stays(was, member, members):
                found.append(replace(was, role="async") if is_replaced(was, member, members) else was)
            else:
                found.append(MemberSeen(store, site, member.role))
    return Observation(now.at_ms, tuple(found))


def aged(seen: Observation, sightings: Mapping[str, Following]) -> Observation:
    """Add the lag, when its primary was last seen, of copies that currently follow no one. In coarse steps,
    because each changes the estate and so the plans.
    """
    found: list[MemberSeen] = []
    for member in seen.members:
        known = sightings[member.store].known if member.store in sightings else None
        copy = None if known is None else known.copy(member.site)
        if member.role == "detached" and known is not None and copy is not None and copy.holds_ms:
            behind_ms = known.at_ms - copy.holds_ms
            lag_ms = next((step for step in _DETACHED_STEPS_MS if step >= behind_ms), None)
            member = replace(member, lag_ms=lag_ms)
        found.append(member)
    return replace(seen, members=tuple(found))


def _stays(was: MemberSeen, now: MemberSeen, members: Mapping[str, MemberSeen]) -> bool:
    """Whether a copy of a certain primary keeps its role: it is silent, or synchronous and reconnecting while
    its primary acknowledges nothing without it.
    """
    if now.role == "unreachable":
        return was.role != "primary"
    waited_for = any(now.detail in one.waits_for for one in members.values())
    return was.role == "sync" and now.role == "detached" and waited_for


def _is_primary(member: MemberSeen | None) -> bool:
    return member is not None and member.role == "primary"


def _led_by(holder: str, member: MemberSeen, was: MemberSeen | None) -> MemberSeen:
    """A copy of a store whose primary is this unseen holder. Another that was or claims to be primary may
    hold worthless data; the others are at most asynchronous, because they followed a different primary.
    """
    follows = {member.role, was.role if was is not None else "none"} & {"sync", "async", "detached"}
    role: Role = "async" if follows and member.role != "primary" and not _is_primary(was) else "none"
    if member.site == holder:
        role = "primary"
    return MemberSeen(member.store, member.site, role)


def _is_certain(members: Mapping[str, MemberSeen], holder: str) -> bool:
    primaries = [site for site, member in members.items() if member.role == "primary"]
    if len(primaries) != 1:
        return False
    other = members.get(holder)
    return primaries[0] == holder or other is None or other.role != "unreachable"


def _by_store(observation: Observation) -> dict[str, dict[str, MemberSeen]]:
    found: dict[str, dict[str, MemberSeen]] = {}
    for member in observation.members:
        found.setdefault(member.store, {})[member.site] = member
    return found
