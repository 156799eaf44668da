"""Effects of runs in the store, and which domains are lost because of them.

    effects/<run>        what a run moved, in full (`model.situation.Moved`), written in the
                         transaction that ends it
    cleared/<domain>     a person took back that it is lost: {"who", "reason", "at_ms", "mark"}

A record covers one run and everything that it moved, so that locations are known without its journal and
plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.derive.domains import stays_lost, topology
from evac.derive.serving import Serving
from evac.derive.situation import Done, moved
from evac.drivers.port import Action
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.engine.runs.open_runs import OPEN, made_in
from evac.engine.stores.guards import SITES_KEY, WHOLE, Permit, marks_in
from evac.model.access import Proven
from evac.model.errors import Corrupt, NotAllowed
from evac.model.estate import Estate
from evac.model.plan import Plan, Step
from evac.model.run_policy import SUCCEEDED
from evac.model.situation import DomainState, Effects, LostNow, Moved
from evac.run.values import made_ms
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.store.port import Compare, Entry, Lease, Put, Store, all_entries

EFFECTS: Final = "effects/"
CLEARED: Final = "cleared/"
CLEARED_S: Final = 2.0
_GONE: Final[Mapping[str, DomainState]] = MappingProxyType(
    {"lost": "lost", "evacuated": "evacuated", "evacuating": "evacuating"}
)
_LEAVES: Final[Mapping[str, DomainState]] = MappingProxyType({"lose": "lost", "evacuate": "evacuated"})


BYTES_MOST: Final = 64 << 20


def encode(one: Moved) -> bytes:
    return zlib.compress(orjson.dumps(asdict(one), option=orjson.OPT_SORT_KEYS))


def decode(value: bytes) -> Moved:
    """Raises Corrupt."""
    try:
        packed = zlib.decompressobj()
        data = packed.decompress(value, BYTES_MOST)
        if packed.unconsumed_tail:
            raise ValueError("it is larger than the effects of any run")
        return moved_from(orjson.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise Corrupt("cannot read a run's moves from the store") from error


def moved_from(found: Mapping[str, Any]) -> Moved:
    """From its fields in JSON. Raises ValueError, KeyError, TypeError."""
    return Moved(
        found["run"],
        found["scenario"],
        tuple(found["domains"]),
        found["began_ms"],
        found["ended_ms"],
        found["phase"],
        {name: tuple((place, count) for place, count in rows) for name, rows in found["placed"].items()},
        {name: tuple(sites) for name, sites in found["traffic"].items()},
        dict(found["servers"]),
        {name: tuple((at, mode) for at, mode in rows) for name, rows in found["roles"].items()},
        {name: (step, at_ms) for name, (step, at_ms) in found["steps"].items()},
        {name: int(at_ms) for name, at_ms in found.get("since", {}).items()},
        tuple(map(str, found.get("stayed", ()))),
        int(found.get("number", 0)),
    )


async def numbered(store: Store, one: Moved) -> Moved:
    """Numbers it after all runs that have ended by now. Raises Unavailable."""
    last = 0
    for entry in await all_entries(store, EFFECTS):
        with contextlib.suppress(Corrupt):
            last = max(last, decode(entry.value).number)
    return replace(one, number=last + 1)


def done_steps(
    view: RunView, plans: Mapping[str, Plan], actions_of: Callable[[str], Sequence[Action]], estate: Estate
) -> list[Done]:
    """Completed steps of a run that were not undone, in the order they ended. plans: by digest; estate:
    before the run. Traffic moved by hand is assumed to go where the plan says.
    """
    serving: dict[str, Serving] = {}
    by_id = {digest: {step.id: step for step in plan.steps} for digest, plan in plans.items()}
    found: list[tuple[int, int, Done]] = []
    for i, step in enumerate(view.steps):
        if view.phases[i] != "succeeded":
            continue
        digest, name = view.origin_of(step.id)
        planned = by_id.get(digest, {})
        of_plan = planned.get(name) or _part_of(planned.values(), step.kind, step.target)
        if (
            of_plan is None
        ):  # added when the plan was bound: only where users are let in again is in the files
            again = {str(one.parameters["site"]) for one in actions_of(step.id) if one.verb == "ready"}
            if again:
                let_in = Step(step.id, step.kind, step.target, step.start_ms, step.start_ms)
                found.append((view.ended[i], i, Done(let_in, view.ended[i], tuple(sorted(again)))))
            continue
        to: tuple[str, ...] = ()
        if kind_of(step.kind).moves_traffic:
            actions = actions_of(step.id)
            if any(action.parameters.get("share", WHOLE) != WHOLE for action in actions):
                continue  # a share of the traffic; the last one takes all of it along
            to = tuple(sorted({str(a.parameters["to"]) for a in actions if "to" in a.parameters}))
            if not to and digest in plans:
                if digest not in serving:
                    serving[digest] = Serving(topology(estate), plans[digest])
                to = serving[digest].sites(step.target)[:1]
        found.append((view.ended[i], i, Done(of_plan, view.ended[i], to)))
    return [done for *_, done in sorted(found, key=lambda row: row[:2])]


def _part_of(steps: Iterable[Step], kind: str, target: str) -> Step | None:
    """The plan step that was split during binding: a shift in shares."""
    if not kind_of(kind).moves_traffic:
        return None
    return next((step for step in steps if (step.kind, step.target) == (kind, target)), None)


def of_run(
    view: RunView, plans: Mapping[str, Plan], actions_of: Callable[[str], Sequence[Action]], estate: Estate
) -> Moved:
    """What an ended run left behind. estate: before the run."""
    scenario = plans[view.plans[-1]].scenario
    since: dict[str, int] = {}
    for digest, at_ms in zip(view.plans, view.planned_ms, strict=True):
        for domain in plans[digest].scenario.domains if digest in plans else ():
            since.setdefault(domain, at_ms)
    found = moved(
        estate,
        scenario,
        done_steps(view, plans, actions_of, estate),
        run=view.spec.run,
        began_ms=max(0, view.started_ms),
        ended_ms=view.last_ms,
        phase=view.phase,
    )
    return replace(found, since={domain: since[domain] for domain in scenario.domains if domain in since})


class EffectsReader:
    """Reads effects of runs; each record is decoded once, because it never changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Moved] = {}
        self._since: dict[tuple[str, str], int] = {}
        self._marks: dict[str, str] = {}

    def begin_with(self, effects: Effects) -> None:
        """Starts with the loss times that an earlier reader found."""
        self._since |= {(one.domain, one.state): one.since_ms for one in effects.lost}

    async def read(self, now_ms: int) -> Effects:
        """All effects of runs up to now. Raises Unavailable."""
        opened = await all_entries(self._store, OPEN)
        await self._read_new()
        await self._read_marks()
        marks = self._marks
        runs = tuple(sorted(self._known.values(), key=lambda one: (one.number, one.ended_ms, one.run)))
        cleared = {
            entry.key.removeprefix(CLEARED): cleared_in(entry.value).get("at_ms", 0)
            for entry in await all_entries(self._store, CLEARED)
        }
        left = _left_by(runs, marks, cleared)
        lost = list(self._sites(marks, left, _leaving(opened), now_ms))
        lost += [one for domain, one in sorted(left.items()) if domain not in marks]
        self._since = {(one.domain, one.state): one.since_ms for one in lost}
        return Effects(tuple(lost), runs)

    async def times_back(self, domain: str) -> tuple[int, int]:
        """How many runs brought a domain back, or its site, and when a person last cleared its mark, in ms
        since 1970: another value whenever it comes back. Raises Unavailable.
        """
        await self._read_new()
        back = {domain, domain.partition("/")[0]}
        runs = [one for one in self._known.values() if back.intersection(one.domains)]
        cleared = [await self._store.get(CLEARED + name) for name in sorted(back)]
        at_ms = [cleared_in(one.value).get("at_ms", 0) for one in cleared if one is not None]
        returns = [one for one in runs if one.scenario not in _LEAVES and one.phase in SUCCEEDED]
        return len(returns), max(at_ms, default=0)

    async def _read_marks(self) -> None:
        """Reads the register; if it is unreadable, keeps the previous marks (guards then allow nothing)."""
        with contextlib.suppress(Corrupt):
            register = await self._store.get(SITES_KEY)
            found = {} if register is None else marks_in(register.value)
            self._marks = self._marks if found is None else found

    async def has_newer(self, effects: Effects | None, with_marks: bool = True) -> bool:
        """Whether a run ended that these effects do not cover, or marks of sites differ: a run began, or a
        person cleared a mark. Raises Unavailable.
        """
        await self._read_new()
        known = effects or Effects()
        newer = not self._known.keys() <= {one.run for one in known.moved}
        if newer or not with_marks:
            return newer
        await self._read_marks()
        marked = {site: _GONE[mark] for site, mark in self._marks.items() if mark in _GONE}
        return marked != {one.domain: one.state for one in known.lost if one.domain in self._marks}

    async def _read_new(self) -> None:
        """Reads all new records: a run may begin and end between two looks. An unreadable record counts as
        moving nothing.
        """
        for entry in await all_entries(self._store, EFFECTS):
            run = entry.key.removeprefix(EFFECTS)
            if run not in self._known:
                with contextlib.suppress(Corrupt):
                    self._known[run] = decode(entry.value)

    def _sites(
        self,
        marks: Mapping[str, str],
        left: Mapping[str, LostNow],
        leaving: Mapping[str, tuple[str, int]],
        now_ms: int,
    ) -> Iterator[LostNow]:
        for site, mark in sorted(marks.items()):
            state = _GONE.get(mark)
            if state is None:
                continue
            run, made_ms = leaving.get(site, ("", 0))
            by = left.get(site, LostNow(site, state, made_ms, run))
            since_ms = self._since.get((site, state)) or by.since_ms or now_ms
            yield replace(by, state=state, since_ms=since_ms)


def _leaving(opened: Iterable[Entry]) -> dict[str, tuple[str, int]]:
    """Site -> the open run that leaves it, and since when; 0 if unknown."""
    found: dict[str, tuple[str, int]] = {}
    for entry in opened:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            run, told = entry.key.removeprefix(OPEN), orjson.loads(entry.value)
            since, made = told.get("since", {}), made_ms(made_in(entry.value))
            found |= {site: (run, int(since.get(site, made))) for site in told.get("leaving", ())}
    return found


def _left_by(
    runs: Sequence[Moved], marks: Mapping[str, str], cleared: Mapping[str, int]
) -> dict[str, LostNow]:
    """Domain -> the first run that left it since it was last restored or cleared; a later run for the same
    loss is not the cause. For sites, the register (marks) decides whether they are left.
    """
    found: dict[str, LostNow] = {}
    for one in runs:
        state = _LEAVES.get(one.scenario)
        for domain in one.domains:
            if state is None:
                if one.phase in SUCCEEDED:
                    found.pop(domain, None)
                if domain in marks and one.scenario == "restore" and one.phase in SUCCEEDED:
                    found = {name: found[name] for name in stays_lost(found, (domain,))}
                continue
            known = domain in found and found[domain].state == state
            # A run cancelled before it began has set its mark nonetheless.
            known |= 0 < (one.began_ms or one.ended_ms) <= cleared.get(domain, 0)
            if not known and (domain in marks or state == "lost" or one.phase in SUCCEEDED):
                since_ms = one.since.get(domain) or one.began_ms or one.ended_ms
                found[domain] = LostNow(domain, state, since_ms, one.run)
    return found


async def mark_digest(store: Store, domain: str, now_ms: int) -> str:
    """What a signature names a mark by: it clears this mark and no later one of the domain."""
    found = await EffectsReader(store).read(now_ms)
    marks = [(one.state, one.run) for one in found.lost if one.domain == domain]
    before = await store.get(CLEARED + domain)
    said = {} if before is None else cleared_in(before.value)
    return hashlib.sha256(orjson.dumps((domain, marks, said.get("at_ms", 0)))).hexdigest()


async def may_clear(
    store: Store, domain: str, who: str, reason: str, now_ms: int, proof: Proven | None = None
) -> Permit:
    """Permit to clear that a domain is lost or evacuated, on a person's word. proof: how that person was
    proven. Raises NotAllowed without proof, and while an open run leaves the domain.
    """
    run, _ = _leaving(await all_entries(store, OPEN)).get(domain, ("", 0))
    if run:
        words = f"{run} is in progress and treats {domain} as lost or evacuated"
        raise NotAllowed("site-in-run", words, f"cancel it first: evac run cancel {run} --reason WHY")
    marks = await store.get(SITES_KEY)
    register = {} if marks is None else marks_in(marks.value)
    if register is None:
        raise Corrupt(f"cannot read {SITES_KEY} in the store")
    effects = await EffectsReader(store).read(now_ms)
    mark = next((one.state for one in effects.lost if one.domain == domain), None)
    if mark is None:
        words = f"{domain} is not marked as lost or evacuated"
        raise NotAllowed("site-active", words, "to see the marks: evac status")
    said: dict[str, Any] = {"who": who, "reason": reason, "at_ms": now_ms, "mark": mark}
    if proof is not None:
        said["proof"] = proof.to_data()
    changes: list[Put] = [Put(CLEARED + domain, orjson.dumps(said))]
    if domain in register:
        changes.append(Put(SITES_KEY, orjson.dumps(register | {domain: "active"})))
    return Permit((Compare(SITES_KEY, 0 if marks is None else marks.revision),), tuple(changes))


async def clear(store: Store, domain: str, who: str, reason: str, now_ms: int) -> None:
    """Raises NotAllowed as `may_clear`; Conflict where the register changed meanwhile."""
    permit = await may_clear(store, domain, who, reason, now_ms)
    await store.transact(permit.compares, permit.changes)


class ClearedMarks:
    """Records once in the watch journal who cleared which mark."""

    def __init__(self, store: Store, clock: Clock, tell: Tell) -> None:
        self._store, self._clock, self._tell = store, clock, tell

    async def chore(self, guard: Lease) -> None:
        for entry in await all_entries(self._store, CLEARED):
            said = cleared_in(entry.value)
            if not said or said.get("told"):
                continue
            domain = entry.key.removeprefix(CLEARED)
            told = orjson.dumps({**said, "told": True})
            await self._store.transact((Compare(entry.key, entry.revision),), (Put(entry.key, told),), guard)
            words = f"{domain}: the mark {said['mark']} was cleared by {said['who']}: {said['reason']}"
            self._tell(Notice("loss", said["at_ms"], domain, words, dict(said)))
        await asyncio.sleep(CLEARED_S)


def cleared_in(value: bytes) -> Mapping[str, Any]:
    """What a person gave when clearing a mark; empty if unreadable, and then the mark stays."""
    with contextlib.suppress(ValueError):
        found = orjson.loads(value)
        if isinstance(found, dict) and type(found.get("at_ms")) is int:
            texts = (found.get(name) for name in ("who", "reason", "mark"))
            return found if all(isinstance(text, str) for text in texts) else {}
    return {}
