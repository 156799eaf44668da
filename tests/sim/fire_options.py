"""From a seed to a story of a fire: what there is, what fails how often, and which acts happen when.

Every option is drawn here, once, and printed with a failing seed; a story draws nothing else but the order
and the length of things. Rare branches are made common: each kind of trouble is on in some stories and off in
others, so that quiet stories find what loud ones hide.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Final

from evac.model.run_policy import Envelope, Patience, Proof, RunPolicy, StorePolicy, WatchProfile
from tests.sim.story import Act, Options
from tests.sim.world import SITES

WATCHING: Final = WatchProfile("simulated", 500, 250, 3, 1_500, 500, 2_000, 2, 400, 4_000)
WHOLE_ONE_IN: Final = 16
"""One story in so many has witnesses, votes and verdicts too; the others begin where a loss is known."""


WITH_SYNC: Final[tuple[tuple[Proof, ...], ...]] = (("sync", "attest"), ("sync", "network"))
"""Ladders of proofs of stores that have a synchronous copy."""
WORSE: Final = (
    *(
        "kill",
        "kill",
        "stop",
        "stop",
        "kill leader",
        "kill leader",
        "stop leader",
        "stop leader",
        "burn",
        "cut",
    ),
    *("cut link", "mend", "restore", "flap", "clock", "replan", "drift", "hold", "restore run"),
)
"""What makes a fire worse, each as often as it is named."""


@dataclass(frozen=True, slots=True)
class FireOptions(Options):
    """All that a seed stands for."""

    whole: bool
    mode: str
    databases: tuple[tuple[str, str, str, str], ...]
    proofs: tuple[tuple[str, tuple[Proof, ...]], ...]
    services: tuple[str, ...]
    on_sync_loss: str
    drift_ppm: tuple[int, ...]
    wall_offset_ms: tuple[int, ...]
    lying_disks: tuple[str, ...]
    detect_ms: int
    ttl_ms: int
    store_lost_too: bool
    weather: dict[str, int]
    faults: dict[str, int]
    chaos_ms: int
    person_every_ms: int
    pause_verbs: bool
    strike: tuple[int, str, int] = (0, "", 0)
    """At which boundary the leader is struck, how, and for how many ms."""
    brief: bool = False
    """Whether the chaos ends as soon as there was a run and it has ended or asks a person."""
    calm_ms: int = 2_000
    """For how long nothing may happen any more at the end."""
    sites: tuple[str, ...] = SITES

    def policy(self) -> RunPolicy:
        stores = {
            name: StorePolicy(name, proofs=proofs, on_sync_loss=self.on_sync_loss)  # type: ignore[arg-type]
            for name, proofs in self.proofs
        }
        covered = Envelope(self.sites, tuple(name for name, _ in self.proofs), 10_000)
        return RunPolicy(
            mode=self.mode,  # type: ignore[arg-type]
            envelope=covered,
            profile=WATCHING,
            stores=stores,
            patience=Patience(4, 4, 1_500, 100, 1_000, 2),
        )


def draw(seed: int, whole: bool | None = None) -> FireOptions:
    """The options of a seed."""
    random = Random(seed)
    whole = seed % WHOLE_ONE_IN == WHOLE_ONE_IN - 1 if whole is None else whole
    databases, proofs = _stores(random)
    loud = random.random()
    chaos_ms = 4_000 + int(random.random() * (14_000 if whole else 8_000))
    return FireOptions(
        seed=seed,
        whole=whole,
        mode="act" if random.random() < 0.85 else "hold",
        databases=databases,
        proofs=proofs,
        services=tuple(f"service-{n}" for n in range(1 + int(random.random() * 5))),
        on_sync_loss=random.choice(("next", "next", "async", "ask")),
        drift_ppm=tuple(int((random.random() - 0.5) * 40_000) for _ in SITES),
        wall_offset_ms=tuple(_some(random, 0.3, 7_200_000) - _some(random, 0.3, 7_200_000) for _ in SITES),
        lying_disks=tuple(site for site in SITES if random.random() < 0.1),
        detect_ms=300 + int(random.random() * 900),
        ttl_ms=random.choice((800, 1_500, 3_000)),
        store_lost_too=random.random() < 0.5,
        weather=_weather(random, loud),
        faults=_faults(random, loud),
        acts=_acts(random, databases, chaos_ms, whole),
        chaos_ms=chaos_ms,
        person_every_ms=random.choice((0, 0, 700, 1_500)),
        pause_verbs=random.random() < 0.3,
        strike=_strike(random),
    )


def _stores(random: Random) -> tuple[Any, Any]:
    ladders: tuple[tuple[Proof, ...], ...] = (
        *WITH_SYNC,
        ("network", "attest"),
        ("power",),
        ("attest",),
        ("sync",),
    )
    databases, proofs = [], []
    for number in range(1 + int(random.random() * 2.5)):
        name = f"messages-{number}"
        primary, sync = random.sample(SITES, 2) if random.random() < 0.5 else ("pangyo", "anyang")
        has_sync = random.random() < 0.85
        databases.append((name, "postgres", primary, sync if has_sync else ""))
        proofs.append((name, random.choice(WITH_SYNC if has_sync and random.random() < 0.7 else ladders)))
    if random.random() < 0.5:
        databases.append(("presence", "redis", "pangyo", ""))
        proofs.append(("presence", ("none",)))
    return tuple(databases), tuple(proofs)


def _strike(random: Random) -> tuple[int, str, int]:
    """Whoever leads is killed, or stopped for so many ms, at a boundary between a record and an effect."""
    if random.random() < 0.5:
        return 0, "", 0
    return 1 + int(random.random() * 90), random.choice(("kill", "stop")), 300 + int(random.random() * 6_000)


def _some(random: Random, likely: float, most: int) -> int:
    return int(random.random() * most) if random.random() < likely else 0


def _weather(random: Random, loud: float) -> dict[str, int]:
    return {
        "lost": _some(random, loud, 80),
        "reply_lost": _some(random, loud, 80),
        "doubled": _some(random, loud, 100),
        "late": _some(random, loud, 40),
        "slow_ms": random.choice((2, 4, 15, 60)),
        "late_lease_ms": _some(random, 0.4, 1_500),
    }


def _faults(random: Random, loud: float) -> dict[str, int]:
    return {
        "fail": _some(random, loud, 150),
        "refuse": _some(random, loud * 0.5, 60),
        "hang": _some(random, loud, 80),
        "hang_done": _some(random, loud, 80),
        "lie": _some(random, loud, 80),
        "slow": _some(random, loud, 150),
        "blind": _some(random, loud, 100),
    }


def _acts(random: Random, databases: Any, chaos_ms: int, whole: bool) -> tuple[Act, ...]:
    """Fires first: of the site with a primary, of the synchronous copy, or any; then what makes it worse."""
    primary, sync = databases[0][2], databases[0][3]
    first = random.choice((primary, primary, sync or primary, random.choice(SITES)))
    begin_ms = 3_500 if whole else 300
    fire = random.choice(("burn", "burn", "burn", "cut", "cut one way", "evacuate"))
    if whole and random.random() < 0.5:
        fire = "cut link"
    found = [_act(begin_ms + int(random.random() * 300), fire, first)]
    if whole:
        found += _doubts(random, begin_ms, chaos_ms)
    for _ in range(int(random.random() * 5)):
        at_ms = begin_ms + int(random.random() * chaos_ms)
        what, for_ms = random.choice(WORSE), int(random.random() * 5_000)
        found.append(_act(at_ms, what, random.choice(SITES), for_ms, int(random.random() * 60)))
    if random.random() < 0.5:
        site = random.choice((first, first, random.choice(SITES)))
        found.append(_act(begin_ms + 2_000 + int(random.random() * chaos_ms / 2), "restore", site))
        at_ms = begin_ms + 4_000 + int(random.random() * chaos_ms / 2)
        found.append(_act(at_ms, "burn", random.choice(SITES)))
    return tuple(sorted(found, key=lambda one: (one.at_s, one.what, one.name)))


def _doubts(random: Random, begin_ms: int, chaos_ms: int) -> list[Act]:
    """What makes witnesses disagree: one link cut, controllers gone for longer than their votes last."""
    found = []
    for what in ("cut link", "kill", "kill", "stop"):
        if random.random() < 0.6:
            at_ms = begin_ms + int(random.random() * chaos_ms / 2)
            site, for_ms = random.choice(SITES), 2_000 + int(random.random() * 6_000)
            found.append(_act(at_ms, what, site, for_ms))
    return found


def _act(at_ms: int, what: str, site: str, for_ms: int = 0, turns: int = 0) -> Act:
    return Act(at_ms / 1_000, what, site, for_ms / 1_000, turns=turns)
