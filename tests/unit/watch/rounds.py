"""Three sites that probe each other in virtual time: the real tally, self-doubt and verdict, no network.

Faults are drawn by seed: lost packets, pauses of two seconds (of one server of a site, of a witness, of a
whole site), and cuts of one direction, which take the answers of one pair of sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from evac.model.run_policy import WatchProfile
from evac.watch.verdict import Ballot, EvidenceKind, Seen, Standing, judge
from evac.watch.witness import SelfDoubt, Tally, Voter

SITES = ("anyang", "ansan", "pangyo")
KINDS: tuple[EvidenceKind, ...] = ("user", "data", "member", "agent")
UP = {kind: Seen(kind, "up", 1) for kind in KINDS}
DOWN = {kind: Seen(kind, "down", 1) for kind in KINDS}


@dataclass(frozen=True)
class Faults:
    """loss: odds of a lost probe. pauses: of two seconds, a minute. whole: whether a pause stops a whole site
    instead of one server of it. cuts: of one direction, in ten minutes. starved: odds that a witness is late
    in a round.
    """

    loss: float = 0.0
    pauses: float = 0.0
    whole: bool = False
    cuts: int = 0
    starved: float = 0.0


@dataclass(frozen=True)
class Span:
    begin_ms: int
    end_ms: int
    what: str

    def holds(self, now_ms: int) -> bool:
        return self.begin_ms <= now_ms < self.end_ms


def play(
    seed: int,
    profile: WatchProfile,
    faults: Faults,
    minutes: int = 10,
    burns: Sequence[tuple[str, int]] = (),
    reader: str = "ansan",
) -> list[tuple[int, str, str]]:
    """The changes of verdict that the controller in `reader` sees: (at_ms, site, state)."""
    return _Play(seed, profile, faults, minutes * 60_000, dict(burns), reader).run()


class _Play:
    def __init__(
        self,
        seed: int,
        profile: WatchProfile,
        faults: Faults,
        span_ms: int,
        burns: dict[str, int],
        reader: str,
    ) -> None:
        self._random = Random(seed)
        self._profile, self._faults, self._span_ms = profile, faults, span_ms
        self._burns, self._reader = burns, reader
        self._pauses = self._draw_pauses()
        self._cuts = self._draw_cuts()
        self._doubts = {site: SelfDoubt(profile) for site in SITES}
        self._voters = {
            (witness, target): Voter(witness, target, Tally(KINDS, profile.misses), 0)
            for witness in SITES
            for target in SITES
            if witness != target
        }
        self._ballots: dict[tuple[str, str], Ballot] = {}
        self._standings: dict[str, Standing] = {}

    def _draw_pauses(self) -> list[Span]:
        count = int(self._faults.pauses * self._span_ms / 60_000)
        victims = SITES if self._faults.whole else tuple(f"{site}/{kind}" for site in SITES for kind in KINDS)
        victims = (*victims, *(f"{site}/witness" for site in SITES))
        begins = [self._random.randrange(5_000, self._span_ms) for _ in range(count)]
        return [Span(begin, begin + 2_000, self._random.choice(victims)) for begin in begins]

    def _draw_cuts(self) -> list[Span]:
        cuts = []
        for _ in range(self._faults.cuts):
            begin = self._random.randrange(5_000, self._span_ms)
            one, other = self._random.sample(SITES, 2)
            cuts.append(Span(begin, begin + self._random.randrange(1_000, 120_000), f"{one}>{other}"))
        return cuts

    def run(self) -> list[tuple[int, str, str]]:
        changes: list[tuple[int, str, str]] = []
        for now_ms in range(0, self._span_ms, self._profile.period_ms):
            stopped = {span.what for span in (*self._pauses, *self._cuts) if span.holds(now_ms)}
            stopped |= {site for site, burnt_ms in self._burns.items() if burnt_ms <= now_ms}
            for witness in SITES:
                self._round(witness, now_ms, stopped)
            if self._silent(self._reader, stopped):
                continue
            before = self._standings
            self._standings = judge(
                self._ballots.values(), SITES, before, self._profile, now_ms, self._reader
            )
            for site, standing in self._standings.items():
                if site not in before or before[site].verdict.state != standing.verdict.state:
                    changes.append((now_ms, site, standing.verdict.state))
        return changes

    def _silent(self, witness: str, stopped: set[str]) -> bool:
        return witness in stopped or f"{witness}/witness" in stopped

    def _round(self, witness: str, now_ms: int, stopped: set[str]) -> None:
        doubt = self._doubts[witness]
        if self._silent(witness, stopped):
            doubt.woke(now_ms, now_ms + 2_000)
            return
        if self._random.random() < self._faults.starved:
            doubt.woke(now_ms - 2 * self._profile.lag_ms, now_ms)
        reason = doubt.reason(now_ms)
        for target in SITES:
            if target != witness:
                self._probe(witness, target, now_ms, stopped, reason)

    def _probe(self, witness: str, target: str, now_ms: int, stopped: set[str], reason: str) -> None:
        voter = self._voters[witness, target]
        dark = (
            target in stopped or f"{witness}>{target}" in stopped or f"{target}>{witness}" in stopped
        )  # one direction is enough: no answer comes back
        loss, draw = self._faults.loss, self._random.random
        for index, kind in enumerate(KINDS):
            missed = dark or draw() < loss or f"{target}/{kind}" in stopped
            voter.tally.record(index, DOWN[kind] if missed else UP[kind], bool(reason))
        self._ballots[witness, target] = Ballot(voter.vote(now_ms, reason), now_ms)
