"""The witness of a site: probes every other site at a fixed interval, checks itself, and publishes votes.

Probes run concurrently, each with its own hard deadline; rounds of one target never wait for another's. This
module owns the loops; the probes and the destination of votes are injected.

A witness doubts itself by its own loop lag, and a control probe that must answer. A slow observer sees
everyone else as dead (Lifeguard: doubting oneself first removed 49 of 50 false positives). So a round with a
slow observer does not count: no miss, and the vote is unknown.

Misses turn into opinions, and opinions into a vote. A probe is down after `misses` in a row, and up after one
answer. A kind is up when any of its probes is, down when all are. The target is down when user requests are
or, if those are not probed, when everything known is; a kind that is up nevertheless stays in the evidence
for the verdict.

A probe that has never answered does not count: it may be misspelt, or its site may not be built yet, and
neither is a loss.

Every probe is one request to a real system, `async () -> Seen`, with a time limit set by the witness. A
connection alone is no answer: a stopped process and a host with a dead disk still accept one. Network errors
are raised unchanged, because the witness knows which of them mean silence.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from evac.drivers.capabilities import ProbeReport
from evac.model.records import dataclass
from evac.model.run_policy import WatchProfile
from evac.watch.verdict import EvidenceKind, Opinion, Seen, Vote

Ask = Callable[[], Awaitable[Seen]]


def asked(kind: EvidenceKind, ask: Callable[[], Awaitable[ProbeReport]]) -> Ask:
    """The probe implemented by a driver (`AnswersProbe`)."""

    async def seen() -> Seen:
        began = time.monotonic()
        report = await ask()
        took_ms = int((time.monotonic() - began) * 1_000)
        return Seen(kind, "up" if report.up else "down", took_ms, report.detail)

    return seen


Evidence = tuple[tuple[EvidenceKind, Opinion], ...]


class Tally:
    """Counts for one target. kinds: kind of each probe, in a fixed order. answered: which of them have
    answered once, to this witness or before its restart. halls: hall of each, "" if unknown.
    """

    def __init__(
        self,
        kinds: Sequence[EvidenceKind],
        misses: int,
        answered: Sequence[bool] = (),
        halls: Sequence[str] = (),
    ) -> None:
        self._kinds = tuple(kinds)
        self._halls = tuple(halls) or ("",) * len(self._kinds)
        self._most = misses
        self.answered = list(answered) or [False] * len(self._kinds)
        self._misses = [0] * len(self._kinds)
        self._opinions: list[Opinion] = ["unknown"] * len(self._kinds)
        self._details = [""] * len(self._kinds)

    def record(self, probe: int, seen: Seen, doubted: bool = False) -> None:
        """Records one result. While the witness doubts itself, misses are not counted, but answers are."""
        if seen.opinion == "up":
            self._misses[probe], self._opinions[probe], self._details[probe] = 0, "up", ""
            self.answered[probe] = True
            return
        self._details[probe] = seen.detail
        if seen.opinion == "unknown" or doubted or not self.answered[probe]:
            return
        self._misses[probe] = min(self._misses[probe] + 1, self._most)
        if self._misses[probe] >= self._most:
            self._opinions[probe] = "down"

    def evidence(self, hall: str | None = None) -> Evidence:
        """One opinion per kind, sorted by kind; with `hall`, only from probes in that hall."""
        of_kind: dict[EvidenceKind, set[Opinion]] = {}
        for kind, opinion, place in zip(self._kinds, self._opinions, self._halls, strict=True):
            if hall is None or hall == place:
                of_kind.setdefault(kind, set()).add(opinion)
        return tuple((kind, _joined(of_kind[kind])) for kind in sorted(of_kind))

    def halls(self) -> tuple[tuple[str, Evidence], ...]:
        """The same by hall, "" for unknown halls; empty if no hall is known."""
        names = sorted(set(self._halls))
        return () if names in ([], [""]) else tuple((name, self.evidence(name)) for name in names)

    def details(self) -> str:
        """Details of the probes that do not answer, for people."""
        pairs = zip(self._opinions, self._details, strict=True)
        return "; ".join(detail for opinion, detail in pairs if opinion == "down" and detail)


def opinion_of(evidence: Evidence) -> Opinion:
    """The opinion on the target from the evidence of all kinds."""
    known = {kind: opinion for kind, opinion in evidence if opinion != "unknown"}
    if "user" in known:
        return known["user"]
    if any(kind == "user" for kind, _ in evidence) or not known:
        return "up" if "up" in known.values() else "unknown"
    return "up" if "up" in known.values() else "down"


class Voter:
    """Turns the tally of one target into numbered votes. first: the first number."""

    def __init__(self, witness: str, target: str, tally: Tally, first: int) -> None:
        self._witness, self._target = witness, target
        self.tally = tally
        self._number = first
        self._opinion: Opinion | None = None
        self._since_ms = 0

    def vote(self, wall_ms: int, doubt: str) -> Vote:
        """The present vote; `unknown` while the witness doubts itself. Every call is a publication."""
        evidence, halls = self.tally.evidence(), self.tally.halls()
        if doubt:
            evidence = _doubted(evidence)
            halls = tuple((name, _doubted(within)) for name, within in halls)
        opinion: Opinion = "unknown" if doubt else opinion_of(evidence)
        if opinion != self._opinion:
            self._opinion, self._since_ms = opinion, wall_ms
        self._number += 1
        reason = doubt or self.tally.details()
        return Vote(
            witness=self._witness,
            target=self._target,
            opinion=opinion,
            evidence=evidence,
            since_ms=self._since_ms,
            at_ms=wall_ms,
            number=self._number,
            reason=reason[:300],
            halls=halls,
        )


def _doubted(evidence: Evidence) -> Evidence:
    return tuple((kind, "unknown" if said == "down" else said) for kind, said in evidence)


def _joined(opinions: set[Opinion]) -> Opinion:
    if "up" in opinions:
        return "up"
    return "down" if opinions == {"down"} else "unknown"


class SelfDoubt:
    """What a witness knows of its own health. Times by its own monotonic clock.

    Doubt begins with a lag above `lag_ms` or an unanswered control probe, and ends a period later.
    """

    def __init__(self, profile: WatchProfile) -> None:
        self._profile = profile
        self._slow_at_ms: int | None = None
        self._lag_ms = 0
        self._control = ""

    def woke(self, due_ms: int, now_ms: int) -> None:
        """The loop asked to wake at `due_ms` and woke at `now_ms`."""
        lag_ms = now_ms - due_ms
        if lag_ms > self._profile.lag_ms:
            self._slow_at_ms, self._lag_ms = now_ms, lag_ms

    def controlled(self, answered: bool, detail: str = "") -> None:
        """Whether the control probe answered."""
        self._control = "" if answered else detail or "no answer"

    def reason(self, now_ms: int) -> str:
        """Why this witness does not trust its observations now; empty when it does."""
        if self._slow_at_ms is not None and now_ms - self._slow_at_ms <= self._profile.period_ms:
            return f"this witness was {self._lag_ms} ms late"
        if self._control:
            return f"the control probe fails: {self._control}"
        return ""


PULSE_MS: Final = 50
"""How often the witness checks whether its own loop is late."""


NO_ANSWER: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)
"""Network errors that mean an absent system. Any other error is trouble of the witness itself."""


class WatchClock(Protocol):
    """The clock of a witness: wall time for people, monotonic time for ages."""

    def now_ms(self) -> int: ...

    def monotonic_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """One request to one site. ask: raises, or returns what was seen; only an answer of the application is
    `up`. name: unique for the target. hall: its hall at the site, if known.
    """

    kind: EvidenceKind
    name: str
    ask: Callable[[], Awaitable[Seen]]
    hall: str = ""


class Witness:
    """Probes `targets` (site -> its probes) until cancelled. publish: takes a vote and returns at once.

    control: must answer whenever this site's own network works; without one the witness only knows its lag.
    answered: `target/probe` of probes that answered before this witness restarted.
    """

    def __init__(
        self,
        site: str,
        targets: Mapping[str, Sequence[Probe]],
        profile: WatchProfile,
        clock: WatchClock,
        publish: Callable[[Vote], None],
        control: Probe | None = None,
        answered: Collection[str] = (),
    ) -> None:
        self.site = site
        self._targets = self._others(targets)
        self._profile, self._clock, self._publish, self._control = profile, clock, publish, control
        self._doubt = SelfDoubt(profile)
        first = clock.now_ms()
        self._voters = {
            target: Voter(site, target, self._tally(target, frozenset(answered)), first)
            for target in self._targets
        }

    def _others(self, targets: Mapping[str, Sequence[Probe]]) -> dict[str, tuple[Probe, ...]]:
        return {target: tuple(probes) for target, probes in targets.items() if target != self.site}

    def retarget(self, targets: Mapping[str, Sequence[Probe]]) -> None:
        """Replaces the probes of the same targets from the next round on. A probe that has answered once is
        remembered; a target with unchanged probes keeps its counts.
        """
        answered = frozenset(self.answered())
        for target, probes in self._others(targets).items():
            before = [(probe.kind, probe.name, probe.hall) for probe in self._targets[target]]
            self._targets[target] = probes
            if before != [(probe.kind, probe.name, probe.hall) for probe in probes]:
                self._voters[target].tally = self._tally(target, answered)

    def answered(self) -> tuple[str, ...]:
        """`target/probe` of every probe that has answered once, sorted; worth keeping across a restart."""
        return tuple(
            sorted(
                f"{target}/{probe.name}"
                for target, probes in self._targets.items()
                for probe, once in zip(probes, self._voters[target].tally.answered, strict=True)
                if once
            )
        )

    async def run(self) -> None:
        """Watches until cancelled. An error in one loop ends all of them: a silent witness votes nothing."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._feel_pulse())
            if self._control is not None:
                loops.create_task(self._rounds(self._check_control))
            for target in self._targets:
                loops.create_task(self._rounds(self._round_of(target)))

    def _tally(self, target: str, answered: frozenset[str]) -> Tally:
        probes = self._targets[target]
        once = [f"{target}/{probe.name}" in answered for probe in probes]
        kinds, halls = [probe.kind for probe in probes], [probe.hall for probe in probes]
        return Tally(kinds, self._profile.misses, once, halls)

    def _round_of(self, target: str) -> Callable[[], Awaitable[None]]:
        async def one_round() -> None:
            await self._probe_target(target)

        return one_round

    async def _rounds(self, one_round: Callable[[], Awaitable[None]]) -> None:
        """Begins a round every period, on a grid that does not drift; missed rounds are skipped."""
        period_ms = self._profile.period_ms
        due_ms = self._clock.monotonic_ms()
        while True:
            await one_round()
            now_ms = self._clock.monotonic_ms()
            due_ms += period_ms * max(1, -(-(now_ms - due_ms) // period_ms))
            await asyncio.sleep(max(0, due_ms - now_ms) / 1_000)

    async def _probe_target(self, target: str) -> None:
        probes, voter = self._targets[target], self._voters[target]
        tally = voter.tally  # of these probes, should there be others when they have answered
        due_ms = self._clock.monotonic_ms() + self._profile.deadline_ms
        answers = await asyncio.gather(*(self.ask(probe) for probe in probes))
        now_ms = self._clock.monotonic_ms()
        self._doubt.woke(due_ms, now_ms)
        doubt = self._doubt.reason(now_ms)
        for index, seen in enumerate(answers):
            tally.record(index, seen, bool(doubt))
        self._publish(voter.vote(self._clock.now_ms(), doubt))

    async def ask(self, probe: Probe) -> Seen:
        """Runs one probe with its deadline; never raises. Errors other than silence count as no
        information.
        """
        began_ms = self._clock.monotonic_ms()
        opinion: Opinion = "down"
        try:
            async with asyncio.timeout(self._profile.deadline_ms / 1_000):
                return await probe.ask()
        except TimeoutError:
            detail = f"{probe.name}: no answer within {self._profile.deadline_ms} ms"
        except OSError as error:
            opinion = "down" if error.errno in NO_ANSWER else "unknown"
            detail = f"{probe.name}: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"
        except Exception as error:
            opinion, detail = "unknown", f"{probe.name}: {type(error).__name__}"
        return Seen(probe.kind, opinion, self._clock.monotonic_ms() - began_ms, detail)

    async def _check_control(self) -> None:
        assert self._control is not None
        seen = await self.ask(self._control)
        self._doubt.controlled(seen.opinion == "up", seen.detail)

    async def _feel_pulse(self) -> None:
        while True:
            due_ms = self._clock.monotonic_ms() + PULSE_MS
            await asyncio.sleep(PULSE_MS / 1_000)
            self._doubt.woke(due_ms, self._clock.monotonic_ms())
