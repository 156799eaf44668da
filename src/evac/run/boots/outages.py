"""Boots that did not come up because their boot server was dead: when each is tried again. Pure.

Three cases, each bounded by the tries of a step. A dead boot server without a replacement is tried by one
server at a time; once all have failed, they take further turns with growing pauses. Boots in doubt are
checked and retried once their boot server, or another one, works. Before a run ends, boots are retried that
may have failed because their boot server died: several that began together, a few that began one right after
the other, and the few that began last.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from evac.run.boots.events import SEVERAL_STALLED, STALLED
from evac.run.patience import deadline_ms
from evac.run.view import BUSY, RunView
from evac.steps.registry import kind_of

PAUSE_MOST_MS: Final = 600_000
CHANCE: Final = 20
"""Accepted error rate: in fewer than one in this many waves, broken servers in a row are taken for a dead
boot server.
"""
_OPEN: Final = BUSY | {"ready"}


class Turn(NamedTuple):
    """One more try of step i, at `at_ms`."""

    at_ms: int
    i: int
    why: str
    last: bool = False
    """It is the only turn, however few it had."""


def lacks_image(view: RunView, i: int) -> bool:
    """Whether the last try of step i ended without a system although its controller answered, or with an
    unknown effect.
    """
    if i in view.boots.blind:
        return i in view.boots.hung
    return view.failures.get(i, ("",))[0] in STALLED


def is_row(view: RunView, boots: Sequence[int]) -> bool:
    """Whether several of the last boots did not come up, and at least half as many as did: broken servers do
    not cluster, those of a dead boot server do. If a similar server that began half a boot later came up,
    this one is broken.
    """
    latest: dict[int, int] = {}
    for i in boots:
        if view.phases[i] == "succeeded":
            took = view.steps[i].duration_ms
            latest[took] = max(latest.get(took, -1), view.started[i])
    bad = good = 0
    for i in sorted(boots, key=lambda i: (-view.started[i], view.rank[i])):
        took = view.steps[i].duration_ms
        if view.phases[i] == "succeeded":
            good += 1
        elif _does_not_come_up(view, i) and latest.get(took, -1) <= view.started[i] + took // 2:
            bad += 1
        if bad >= SEVERAL_STALLED and 2 * bad >= good:
            return True
    return False


def _does_not_come_up(view: RunView, i: int) -> bool:
    if view.phases[i] == "running":
        return i in view.stuck
    return bool(view.attempts[i]) and lacks_image(view, i)


def dead_at_last(view: RunView) -> Iterator[tuple[str, int]]:
    """Boot servers found dead only once nothing else is left to do, and how many boots show it."""
    if view.phase != "running" or not view.settled:
        return
    tries = _tries(view)
    for server, boots in sorted(_in_vain(view).items()):
        tried = [i for i in boots if view.booted_from(i) == server]
        number = 0 if server in view.boots.lost_servers else len(_unproved(view, tries[server], tried))
        if number >= SEVERAL_STALLED and is_row(view, tries[server]):
            yield server, number


def due(view: RunView, now_ms: int) -> list[Turn]:
    """Boots to retry now."""
    return [turn for turn in _turns(view) if turn.at_ms <= now_ms]


def next_ms(view: RunView) -> int | None:
    """Time of the next retry; None if none is known."""
    return min((turn.at_ms for turn in _turns(view)), default=None)


def held(view: RunView, server: str) -> int:
    """Number of boots that failed at a boot server without a replacement and will take another turn."""
    return sum(1 for i in _in_vain(view).get(server, ()) if _has_tries(view, i))


def tried_again(view: RunView) -> dict[str, tuple[int, int]]:
    """Boot servers whose death is not established but of which a few boots are retried: how many, when
    next.
    """
    found: dict[str, tuple[int, int]] = {}
    for turn in _turns(view):
        server = view.boots.server_of(turn.i)
        if server not in view.boots.unreplaced:
            boots, at_ms = found.get(server, (0, turn.at_ms))
            found[server] = boots + 1, min(at_ms, turn.at_ms)
    return found


def _turns(view: RunView) -> list[Turn]:
    """The next try of each boot that has one left; for a boot server without a replacement only the first."""
    if view.phase != "running" or not (view.boots.unreplaced or view.boots.hung or view.settled):
        return []
    found: list[Turn] = []
    tries = _tries(view) if view.settled else defaultdict[str, list[int]](list)
    for server, boots in _in_vain(view).items():
        left = [i for i in boots if _has_tries(view, i)]
        if server in view.boots.unreplaced:
            found += _one_at_a_time(view, server, left)
            continue
        found += _of_doubt(view, server, left)
        if view.settled:
            for tried in sorted({view.booted_from(i) for i in left}):
                mine = [i for i in left if view.booted_from(i) == tried]
                found += _last_ones(view, tried, mine, tries[tried])
    return found


def _in_vain(view: RunView) -> dict[str, list[int]]:
    """Boot server -> servers that the run continues without, because they got no image from it."""
    found: dict[str, list[int]] = {}
    for i in sorted(view.boots.quarantined):
        server = view.boots.server_of(i)
        if server and view.phases[i] == "skipped" and not view.steps[i].manual and lacks_image(view, i):
            found.setdefault(server, []).append(i)
    return found


def _has_tries(view: RunView, i: int) -> bool:
    return view.boots.turns.get(i, 0) < view.spec.patience.attempts


def _one_at_a_time(view: RunView, server: str, boots: Iterable[int]) -> list[Turn]:
    """The next turn at a boot server without a replacement, once all others have tried it."""
    first = min(
        boots, key=lambda i: (view.boots.turns.get(i, 0), i in view.boots.hung, view.ended[i], i), default=-1
    )
    # Whatever boots from it, now or next.
    if first < 0 or any(
        phase in _OPEN and _is_boot(view, j) and server in (view.boots.server_of(j), view.booted_from(j))
        for j, phase in enumerate(view.phases)
    ):
        return []
    return [Turn(_after_pause(view, first), first, f"another try at boot server {server}")]


def _of_doubt(view: RunView, server: str, boots: Iterable[int]) -> list[Turn]:
    """Boots in doubt, none of whose tries was followed to the end. They are retried once a dead boot server
    is back or replaced, otherwise when nothing else is left to do.
    """
    found = []
    for i in boots:
        if i not in view.boots.hung or (view.boots.turns.get(i) and not view.steps[i].cold):
            continue
        if view.booted_from(i) != server or server in view.boots.unreplaced_ms:
            found.append(Turn(view.ended[i], i, f"boot server {server} is serving again"))
        elif view.settled:
            found.append(Turn(_after_pause(view, i), i, "the outcome of its last try is unknown"))
    return found


def _last_ones(view: RunView, server: str, boots: Iterable[int], tries: Sequence[int]) -> list[Turn]:
    """Before the run ends: boots that began together, once; and the few that began last, several times,
    because nothing shows that their boot server works. tries: all boots from it.
    """
    left = [i for i in boots if i not in view.boots.hung]
    unproved = _unproved(view, tries, left)
    if len(unproved) >= SEVERAL_STALLED:
        unproved = []
    why = f"nothing has come up from boot server {server} since this boot started"
    found = [Turn(_after_pause(view, i), i, why) for i in unproved]
    why = f"several boots that started together from boot server {server} did not come up"
    fresh = set(left).difference(unproved, view.boots.turns)
    together = fresh.intersection(_together(view, tries)) if len(left) >= SEVERAL_STALLED else set[int]()
    found += [Turn(view.ended[i], i, why) for i in sorted(together)]
    row = fresh.intersection(_in_a_row(view, tries)) - together
    return found + [Turn(view.ended[i], i, why, last=True) for i in sorted(row)]


def _together(view: RunView, tries: Iterable[int]) -> Iterator[int]:
    """Boots that did not come up while few of those begun between them failed: broken servers are
    scattered.
    """
    bad: list[tuple[int, int]] = []
    good = 0
    for i in sorted(tries, key=lambda i: (view.started[i], view.rank[i])):
        if view.phases[i] == "succeeded":
            good += 1
        elif _does_not_come_up(view, i):
            bad.append((i, good))
            several = bad[-SEVERAL_STALLED:]
            if len(several) == SEVERAL_STALLED and good - several[0][1] <= 2 * SEVERAL_STALLED:
                yield from (one for one, _ in several)


def _in_a_row(view: RunView, tries: Iterable[int]) -> Iterator[int]:
    """Two or more similar boots that began one right after the other and did not come up, where the failure
    rate of the others makes that unlikely: their boot server may have been away for a moment.
    """
    alike: dict[int, list[int]] = {}
    for i in sorted(tries, key=lambda i: (view.started[i], view.rank[i])):
        if _does_not_come_up(view, i) or _came_up_in_time(view, i):
            alike.setdefault(view.steps[i].duration_ms, []).append(i)
    for took, boots in alike.items():
        rows: list[list[int]] = [[]]
        for i in boots:
            if view.phases[i] == "succeeded":
                rows.append([])
            elif rows[-1] and view.started[i] - view.started[rows[-1][-1]] > took:
                rows.append([i])
            else:
                rows[-1].append(i)
        bad = sum(map(len, rows))
        for row in rows:
            number = len(row)
            if number > 1 and CHANCE * (bad - number + 1) ** number <= len(boots) ** (number - 1):
                yield from row


def _came_up_in_time(view: RunView, i: int) -> bool:
    """Whether step i came up without waiting for its image."""
    took = view.steps[i].duration_ms
    return view.phases[i] == "succeeded" and view.ended[i] - view.started[i] <= took + took // 2


def _unproved(view: RunView, tries: Iterable[int], boots: Iterable[int]) -> list[int]:
    """Boots whose last failure proves nothing: during it no similar boot began that came up, nor did any
    after they should have been up.
    """
    alike: dict[int, list[int]] = {}
    for j in tries:
        if view.phases[j] == "succeeded" and view.attempts[j]:
            alike.setdefault(view.steps[j].duration_ms, []).append(view.started[j])
    every = sorted(at_ms for found in alike.values() for at_ms in found)
    for found in alike.values():
        found.sort()
    left = []
    for i in boots:
        began, took, ended = view.started[i], view.steps[i].duration_ms, view.ended[i]
        first = (
            began if view.boots.turns.get(i) else began + 1
        )  # if many began at once, only some may have got it
        if not (_any_in(alike.get(took, ()), first, ended) or _any_in(every, began + took, ended)):
            left.append(i)
    return left


def _any_in(moments: Sequence[int], since: int, until: int) -> bool:
    """Whether any of the ordered times is in [since, until)."""
    n = bisect_left(moments, since)
    return n < len(moments) and moments[n] < until


def _after_pause(view: RunView, i: int) -> int:
    """The first turn comes at once, as does one after another server came up; others with growing delays."""
    turns = view.boots.turns.get(i, 0)
    if not turns or _serves_since(view, view.boots.server_of(i), view.ended[i]):
        return view.ended[i]
    pause_ms = deadline_ms(view.spec.patience, view.steps[i]) << min(turns - 1, 30)
    return view.ended[i] + min(pause_ms, PAUSE_MOST_MS)


def _serves_since(view: RunView, server: str, at_ms: int) -> bool:
    """Whether a boot that began after `at_ms` came up."""
    return any(
        at > at_ms and view.phases[j] == "succeeded" and _is_boot(view, j) and view.booted_from(j) == server
        for j, at in enumerate(view.started)
    )


def _tries(view: RunView) -> defaultdict[str, list[int]]:
    """Boot server -> boots whose last try used it."""
    found = defaultdict[str, list[int]](list)
    for i in range(len(view.steps)):
        if _is_boot(view, i):
            found[view.booted_from(i)].append(i)
    return found


def _is_boot(view: RunView, i: int) -> bool:
    return kind_of(view.steps[i].kind).boots and not view.steps[i].manual
