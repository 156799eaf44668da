"""The witness: fixed rounds, hard deadlines, misses, and doubt of itself, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable

from evac.model.run_policy import WatchProfile
from evac.watch.verdict import EvidenceKind, Seen, Vote
from evac.watch.witness import Probe, SelfDoubt, Tally, Witness, opinion_of
from tests.unit.virtual_time import LoopClock, pass_s, run_virtually

QUICK = WatchProfile("quick", 60, 30, 3, 180, 0, 300, 2, 200, 1_000)


class _Site:
    """What a probed site does: answer, refuse, say nothing for ever, or make the probe itself fail."""

    def __init__(self, mode: str = "answer") -> None:
        self.mode, self.asked = mode, 0

    def probe(self, kind: EvidenceKind = "user", name: str = "front") -> Probe:
        async def ask() -> Seen:
            self.asked += 1
            if self.mode == "black hole":
                await asyncio.sleep(3_600)
            if self.mode == "refuse":
                raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
            if self.mode == "no file left":
                raise OSError(errno.EMFILE, "too many open files")
            if self.mode == "misconfigured":
                raise ValueError("no such secret")
            return Seen(kind, "up", 1)

        return Probe(kind, name, ask)


def _watch(
    sites: dict[str, list[Probe]],
    story: Callable[[list[Vote]], Awaitable[None]],
    control: Probe | None = None,
    answered: tuple[str, ...] = (),
) -> list[Vote]:
    async def play() -> list[Vote]:
        votes: list[Vote] = []
        witness = Witness("ansan", sites, QUICK, LoopClock(), votes.append, control, answered)
        task = asyncio.ensure_future(witness.run())
        await story(votes)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return votes

    return run_virtually(play())


def _last(votes: list[Vote], target: str) -> Vote:
    return [vote for vote in votes if vote.target == target][-1]


def test_a_black_hole_never_delays_another_target() -> None:
    dark, bright = _Site("black hole"), _Site()

    async def story(votes: list[Vote]) -> None:
        await asyncio.sleep(0.8)

    votes = _watch({"pangyo": [dark.probe(), dark.probe("data", "db")], "anyang": [bright.probe()]}, story)
    assert bright.asked >= 8, "rounds of a site that answers keep their period"
    assert dark.asked >= 16, "and so do those of one that does not: two probes a round, side by side"
    assert {vote.opinion for vote in votes if vote.target == "anyang"} == {"up"}


def test_down_after_three_misses_and_up_with_one_answer() -> None:
    site = _Site()

    async def story(votes: list[Vote]) -> None:
        await asyncio.sleep(0.2)
        site.mode = "refuse"
        await asyncio.sleep(0.4)
        site.mode = "answer"
        await asyncio.sleep(0.2)

    votes = _watch({"pangyo": [site.probe()]}, story)
    opinions = [vote.opinion for vote in votes]
    first_down = opinions.index("down")
    assert opinions[0] == "up" == opinions[-1]
    assert set(opinions[:first_down]) == {"up"}
    assert "ECONNREFUSED" in votes[first_down].reason
    assert [vote.number for vote in votes] == sorted({vote.number for vote in votes})
    assert votes[first_down].since_ms == votes[first_down].at_ms >= votes[first_down - 1].at_ms


def test_what_never_answered_is_not_lost_unless_it_did_before() -> None:
    async def story(votes: list[Vote]) -> None:
        await asyncio.sleep(0.4)

    votes = _watch({"pangyo": [_Site("refuse").probe()]}, story)
    assert {vote.opinion for vote in votes} == {"unknown"}
    votes = _watch({"pangyo": [_Site("refuse").probe()]}, story, answered=("pangyo/front",))
    assert votes[-1].opinion == "down"


def test_trouble_of_the_witness_itself_is_no_miss() -> None:
    for mode in ("no file left", "misconfigured"):
        site = _Site()

        async def story(votes: list[Vote], site: _Site = site, mode: str = mode) -> None:
            await asyncio.sleep(0.15)
            site.mode = mode
            await asyncio.sleep(0.4)

        assert {vote.opinion for vote in _watch({"pangyo": [site.probe()]}, story)} == {"up"}


def test_a_witness_whose_control_fails_says_unknown() -> None:
    site, gateway = _Site(), _Site()

    async def story(votes: list[Vote]) -> None:
        await asyncio.sleep(0.2)
        site.mode = gateway.mode = "black hole"
        await asyncio.sleep(0.5)

    votes = _watch({"pangyo": [site.probe()]}, story, gateway.probe("agent", "gateway"))
    assert "down" not in {vote.opinion for vote in votes}
    assert _last(votes, "pangyo").opinion == "unknown"
    assert "control probe" in _last(votes, "pangyo").reason


def test_a_witness_that_stood_still_counts_no_miss() -> None:
    site = _Site()

    async def story(votes: list[Vote]) -> None:
        await asyncio.sleep(0.2)
        for _ in range(4):
            pass_s(0.25)
            await asyncio.sleep(0.001)

    votes = _watch({"pangyo": [site.probe()]}, story)
    assert "down" not in {vote.opinion for vote in votes}


def test_answered_names_what_is_worth_keeping() -> None:
    async def play() -> tuple[str, ...]:
        sites = {"pangyo": [_Site().probe(), _Site("refuse").probe("data", "db")]}
        witness = Witness("ansan", sites, QUICK, LoopClock(), lambda vote: None)
        task = asyncio.ensure_future(witness.run())
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return witness.answered()

    assert run_virtually(play()) == ("pangyo/front",)


def test_opinion_follows_users_and_then_everything_known() -> None:
    assert opinion_of((("agent", "up"), ("user", "down"))) == "down"
    assert opinion_of((("data", "down"), ("user", "up"))) == "up"
    assert opinion_of((("data", "down"), ("user", "unknown"))) == "unknown"
    assert opinion_of((("agent", "down"), ("member", "down"))) == "down"
    assert opinion_of((("agent", "up"), ("member", "down"))) == "up"
    assert opinion_of((("agent", "unknown"),)) == "unknown"
    assert opinion_of(()) == "unknown"


def test_a_kind_of_several_probes_is_down_only_when_all_are() -> None:
    tally = Tally(["user", "user"], misses=1, answered=[True, True])
    tally.record(0, Seen("user", "down", 1))
    tally.record(1, Seen("user", "up", 1))
    assert tally.evidence() == (("user", "up"),)
    tally.record(1, Seen("user", "down", 1))
    assert tally.evidence() == (("user", "down"),)


def test_a_miss_in_doubt_is_not_counted_and_an_answer_is() -> None:
    tally = Tally(["user"], misses=2, answered=[True])
    tally.record(0, Seen("user", "up", 1), doubted=True)
    for _ in range(5):
        tally.record(0, Seen("user", "down", 1), doubted=True)
    tally.record(0, Seen("user", "down", 1))
    assert tally.evidence() == (("user", "up"),)
    tally.record(0, Seen("user", "down", 1))
    assert tally.evidence() == (("user", "down"),)


def test_doubt_lasts_a_period() -> None:
    doubt = SelfDoubt(QUICK)
    assert doubt.reason(0) == ""
    doubt.woke(1_000, 1_200)
    assert doubt.reason(1_200) == "", "as late as is allowed"
    doubt.woke(1_000, 1_201)
    assert "201 ms late" in doubt.reason(1_261)
    assert doubt.reason(1_262) == ""


def test_other_probes_are_asked_from_the_next_round_on_and_old_ones_count_on() -> None:
    kept, gone, new = _Site(), _Site(), _Site("refuse")
    moved = _Site("refuse")

    async def play() -> list[Vote]:
        votes: list[Vote] = []
        targets = {"pangyo": [kept.probe("user", "front"), gone.probe("member", "etcd")]}
        witness = Witness("ansan", targets, QUICK, LoopClock(), votes.append)
        task = asyncio.ensure_future(witness.run())
        await asyncio.sleep(0.2)
        witness.retarget({"pangyo": [moved.probe("user", "front"), new.probe("data", "db")], "ansan": []})
        gone.asked = 0
        await asyncio.sleep(0.4)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return votes

    votes = run_virtually(play())
    assert votes[0].opinion == "up"
    assert _last(votes, "pangyo").evidence == (("data", "unknown"), ("user", "down")), (
        "a probe of a name that answered once is known to have; one that is new never did"
    )
    assert gone.asked <= 1 < moved.asked
