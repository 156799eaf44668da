"""The ten bugs that the simulator must find, each planted into the running program for a while.

Each is what a tired engineer could write: a check left out, a row forgotten, a number used twice. Nothing of
the simulator changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from evac.engine.lead.candidacy import Candidacy
from evac.engine.lead.leadership import SIGN, Leadership
from evac.engine.runs import drift, effects
from evac.engine.runs.effects import EffectsReader
from evac.engine.runs.performing import Performer
from evac.engine.stores import datasets
from evac.run import agenda, replan, state
from evac.run.limits import Limits
from evac.store import journal as journals
from evac.store.anchors import Anchor, Segment
from evac.store.journal import Journal, read
from evac.watch import verdict
from evac.watch.verdict import Vote
from tests.sim.boundaries import patient_options, restless, struck_story
from tests.sim.fires import play
from tests.sim.rows import play_row

Patch = tuple[Any, str, Any]


@contextmanager
def planted(*patches: Patch) -> Iterator[None]:
    kept = [(where, name, where.__dict__[name]) for where, name, _ in patches]
    try:
        for where, name, value in patches:
            setattr(where, name, value)
        yield
    finally:
        for where, name, value in kept:
            setattr(where, name, value)


def _handlers(**changed: Callable[[Any, Any], None]) -> Patch:
    return state, "_HANDLERS", MappingProxyType({**state._HANDLERS, **changed})


def promote_without_fence() -> list[Patch]:
    return [
        (agenda, "is_fenced", lambda view, i, fences: True),
        (datasets, "_is_taken", lambda rung, policy: True),
    ]


def skip_observe_after_a_crash() -> list[Patch]:
    begin = Performer.start

    async def observe(self: Performer, one: Any) -> Any:
        return "step_observed", {"outcome": "absent", "evidence": {}}

    async def start(self: Performer, one: Any) -> Any:
        return await begin(self, one._replace(attempt=1))

    return [(Performer, "observe", observe), (Performer, "start", start)]


def reuse_an_epoch() -> list[Patch]:
    claim = datasets.claim

    def again(before: datasets.Epoch, **more: Any) -> Any:
        return claim(replace(before, number=max(0, before.number - 1)), **more)

    return [(datasets, "claim", again)]


def count_a_lost_vote_as_yes() -> list[Patch]:
    weigh = verdict._weigh_fresh

    def with_lost(site: str, votes: Any, alive: bool, quorum: int, profile: Any) -> Any:
        told = [vote for vote in votes if vote.opinion != "unknown"]
        kinds = tuple((kind, "down") for kind in ("agent", "member", "user"))
        lost = [Vote(f"lost-{n}", site, "down", kinds, 0, 0, 0) for n in range(2 - len(told))]
        return weigh(site, [*told, *lost], alive, quorum, profile)

    return [(verdict, "_weigh_fresh", with_lost)]


def forget_a_limit_at_take_over() -> list[Patch]:
    def changed(view: Any, event: Any) -> None:
        state._leader_changed(view, event)
        view.limits._used = [0] * len(view.limits.limits)
        view.limits._timed = []

    return [_handlers(leader_changed=changed)]


def apply_a_replan_to_finished_steps() -> list[Patch]:
    return [(replan, "KEPT", frozenset({"running", "unknown", "undoing", "skipped"}))]


def treat_an_expired_lease_as_held() -> list[Patch]:
    return [
        (Leadership, "check", lambda self: None),
        (Leadership, "left_ms", property(lambda self: self.lease.ttl_ms)),
    ]


def drop_the_last_journal_segment() -> list[Patch]:
    async def opened(
        cls: type[Journal], store: Any, stream: str, visit: Any = None, after: Any = None
    ) -> Journal:
        found: list[Segment] = [segment async for segment in read(store, stream, after or 0)]
        kept = found[:-1] if len(found) > 1 else found
        for segment in kept:
            if visit is not None:
                visit(segment)
        if not kept:
            return cls(store, stream, after, 0)
        last = kept[-1]
        return cls(store, stream, Anchor(stream, last.number, last.last, last.hash), last.token)

    return [(journals.Journal, "open", classmethod(opened))]


def wake_a_pause_twice() -> list[Patch]:
    def resumed(view: Any, event: Any) -> None:
        view.woke = view.pause.until_ms if view.pause is not None else 0
        state._resumed(view, event)

    def paused(view: Any, event: Any) -> None:
        state._paused(view, event)
        if getattr(view, "woke", 0) and view.pause.by == "operator":
            view.pause = view.pause._replace(until_ms=view.woke, then="resume")

    return [_handlers(resumed=resumed, paused=paused)]


def double_book_a_spare() -> list[Patch]:
    def nothing(self: Limits, uses: Any) -> None:
        return None

    return [(Limits, "promise", nothing), (Limits, "keep", nothing), (Limits, "withdraw", nothing)]


def forget_what_the_last_run_moved() -> list[Patch]:
    read = EffectsReader.read

    async def without_the_last(self: EffectsReader, now_ms: int) -> Any:
        found = await read(self, now_ms)
        return replace(found, moved=found.moved[:-1])

    return [(EffectsReader, "read", without_the_last)]


def believe_clocks_of_what_ended_first() -> list[Patch]:
    async def numbered(store: Any, one: Any) -> Any:
        return one

    return [(effects, "numbered", numbered)]


def put_right_what_a_later_run_moved() -> list[Patch]:
    replaces = drift._replaces

    def of_one_system(new: Any, old: Any) -> bool:
        same = replace(old, order=replace(old.order, run=new.order.run))
        return replaces(new, same)

    return [(drift, "_replaces", of_one_system)]


def count_a_change_of_leader_as_a_failure() -> list[Patch]:
    def changed(view: Any, event: Any) -> None:
        before = view.tries.copy()
        state._leader_changed(view, event)
        view.tries = before

    return [_handlers(leader_changed=changed)]


def begin_for_ever_what_ends_controllers() -> list[Patch]:
    return [(agenda.Agenda, "_ends_controllers", lambda self, view, i: False)]


def end_while_the_store_is_silent() -> list[Patch]:
    async def wait(self: Candidacy[Any]) -> Any:
        async with aclosing(self._store.watch(SIGN)) as hints:  # type: ignore[type-var]
            async for _ in hints:
                if (term := await self._try()) is not None:
                    return term

    return [(Candidacy, "wait", wait)]


BUGS: Final[Mapping[str, Callable[[], list[Patch]]]] = MappingProxyType(
    {
        "promote without fence": promote_without_fence,
        "skip observe after a crash": skip_observe_after_a_crash,
        "reuse an epoch": reuse_an_epoch,
        "count a lost vote as yes": count_a_lost_vote_as_yes,
        "forget a limit at take-over": forget_a_limit_at_take_over,
        "apply a replan to finished steps": apply_a_replan_to_finished_steps,
        "treat an expired lease as held": treat_an_expired_lease_as_held,
        "drop the last journal segment": drop_the_last_journal_segment,
        "wake a pause twice": wake_a_pause_twice,
        "double-book a spare": double_book_a_spare,
    }
)
ROW_BUGS: Final[Mapping[str, Callable[[], list[Patch]]]] = MappingProxyType(
    {
        "forget what the last run moved": forget_what_the_last_run_moved,
        "believe clocks of what ended first": believe_clocks_of_what_ended_first,
        "put right what a later run moved": put_right_what_a_later_run_moved,
    }
)
"""What shows only in a second fire: stories of fires in a row find them."""
RESTLESS_BUGS: Final[Mapping[str, Callable[[], list[Patch]]]] = MappingProxyType(
    {
        "count a change of leader as a failure": count_a_change_of_leader_as_a_failure,
        "begin for ever what ends controllers": begin_for_ever_what_ends_controllers,
    }
)
"""What shows only where controllers end again and again in the middle of one step."""

SILENT_BUGS: Final[Mapping[str, Callable[[], list[Patch]]]] = MappingProxyType(
    {"end while the store is silent": end_while_the_store_is_silent}
)


def seeds_to_find(bug: str, most: int, first: int = 0) -> tuple[int, str]:
    """How many seeds, from `first` on, until it is found, and how it showed; 0 where `most` were not enough.

    Watching is wrong only in stories that have witnesses, so for a bug of the verdict all seeds have.
    """
    whole = True if bug == "count a lost vote as yes" else None
    with planted(*{**BUGS, **ROW_BUGS, **RESTLESS_BUGS, **SILENT_BUGS}[bug]()):
        for count, seed in enumerate(range(first, first + most), start=1):
            if bug in SILENT_BUGS:
                outcome, _ = struck_story(patient_options(seed), 1 + seed, "store")
            elif bug in RESTLESS_BUGS:
                outcome = restless(seed).play()
            else:
                outcome = play_row(seed) if bug in ROW_BUGS else play(seed, whole=whole)
            if outcome.error:
                return count, outcome.error
    return 0, ""
