"""The witness of a site: probes every other site on a fixed period, doubts itself, and hands out votes.

Every probe runs beside all others and has its own hard deadline; the rounds of one target never wait for
those of another. This module owns the loops; what a probe does, and where votes go, is given to it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from evac.model.run_policy import WatchProfile
from evac.watch.control import SelfDoubt
from evac.watch.tally import Tally, Voter
from evac.watch.values import EvidenceKind, Opinion, Seen, Vote

PULSE_MS: Final = 50
"""How often the witness looks whether its own loop is late."""


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
"""What the network says of a system that is not there. Any other error is trouble of the witness itself."""


class WatchClock(Protocol):
    """The clock of a witness: wall time for people, monotonic time for ages."""

    def now_ms(self) -> int: ...

    def monotonic_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to one site. ask: raises or returns what was seen; only an answer of the application is
    `up`. name: unlike that of any other probe of the target.
    """

    kind: EvidenceKind
    name: str
    ask: Callable[[], Awaitable[Seen]]


class Witness:
    """Probes `targets` (site -> its probes) until it is cancelled. publish: takes a vote and returns at once.

    control: must answer whenever this site's own network works; without one the witness only knows its lag.
    answered: `target/probe` of probes that answered once before this witness was started again.
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
        """Other probes of the same targets, from the next round on. One that answered once is still known to
        have; where a target has the same ones as before, they count on.
        """
        answered = frozenset(self.answered())
        for target, probes in self._others(targets).items():
            before = [(probe.kind, probe.name) for probe in self._targets[target]]
            self._targets[target] = probes
            if before != [(probe.kind, probe.name) for probe in probes]:
                self._voters[target].tally = self._tally(target, answered)

    def answered(self) -> tuple[str, ...]:
        """`target/probe` of every probe that has answered once, sorted; worth keeping over a restart."""
        return tuple(
            sorted(
                f"{target}/{probe.name}"
                for target, probes in self._targets.items()
                for probe, once in zip(probes, self._voters[target].tally.answered, strict=True)
                if once
            )
        )

    async def run(self) -> None:
        """Watches until cancelled. An error of a loop ends all of them: a silent witness votes nothing."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._feel_pulse())
            if self._control is not None:
                loops.create_task(self._rounds(self._check_control))
            for target in self._targets:
                loops.create_task(self._rounds(self._round_of(target)))

    def _tally(self, target: str, answered: frozenset[str]) -> Tally:
        probes = self._targets[target]
        once = [f"{target}/{probe.name}" in answered for probe in probes]
        return Tally([probe.kind for probe in probes], self._profile.misses, once)

    def _round_of(self, target: str) -> Callable[[], Awaitable[None]]:
        async def one_round() -> None:
            await self._probe_target(target)

        return one_round

    async def _rounds(self, one_round: Callable[[], Awaitable[None]]) -> None:
        """Begins a round every period, on a grid that does not drift; missed rounds are left out."""
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
        """One probe under its deadline; never raises. An error other than silence says nothing."""
        began_ms = self._clock.monotonic_ms()
        opinion: Opinion = "down"
        try:
            async with asyncio.timeout(self._profile.deadline_ms / 1_000):
                return await probe.ask()
        except TimeoutError:
            detail = f"{probe.name}: no answer in {self._profile.deadline_ms} ms"
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
