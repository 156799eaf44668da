"""What the results of boots imply: a tripped feed, a dead boot server, a refused password.

Pure; rules are few and bounded. A feed tripped if its breaker was found open, or if several servers in more
than one rack fell silent or went off together after they had answered, and more than continue booting there.
A single silent rack is a switch failure. A boot server is dead if several boots in a row do not come up, even
if that shows only once nothing else is left to begin; if the site has no other, one server at a time tries it
until one comes up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from evac.run.boots import outages, silent_servers
from evac.run.boots.events import REFUSED, SEVERAL, SEVERAL_STALLED
from evac.run.values import Event
from evac.run.view import RunView
from evac.steps.registry import kind_of

MENDED: Final = "the operator resumed the run after credentials were rejected"
MADE_GOOD: Final = "the operator resumed the run after fixing what evac needs to boot servers"
UNHEARD: Final = "set aside, as nothing behind its feed has answered yet"
ALONE: Final = "one server at a time tries it; the others wait until one comes up"
_AT_ONCE: Final = 1_024


class BootRules:
    """Checks what changed since the last check. checked: how many must be gone before the next one."""

    __slots__ = ("_by_feed", "_by_server", "_checked")

    def __init__(self) -> None:
        self._by_feed: dict[str, list[int]] = {}
        self._by_server: dict[str, list[int]] = {}
        self._checked: dict[str, int] = {}

    def records(self, view: RunView, now_ms: int) -> list[Event]:
        """Events that must be written before anything else starts."""
        found: list[Event] = []
        if view.boots.open_breakers or view.boots.gone or view.boots.stalled:
            found += self._trips(view, now_ms)
            found += islice(self._lost(view, now_ms), 1)  # where the next one goes depends on it
        if view.phase == "running" and not found:
            if view.boots.given_up:
                found += _left_out(view, now_ms)
            if view.boots.refused and not view.boots.refusing:
                found += _again(view, now_ms)
            if not found:
                found += islice(self._lost_at_last(view, now_ms), 1)
            if not found:
                found += _next_turns(view, now_ms)
        return found

    def _trips(self, view: RunView, now_ms: int) -> Iterator[Event]:
        for feed in sorted(view.boots.open_breakers):
            if feed not in view.boots.tripped:
                yield _tripped(feed, "its breaker was found open", (), True, now_ms)
        for feed, gone in sorted(view.boots.gone.items()):
            number = len(gone)
            known = feed in view.boots.tripped or feed in view.boots.open_breakers
            if known or number < self._checked.get(feed, SEVERAL):
                continue
            self._checked[feed] = number + max(1, number // 4)
            if self._is_tripped(view, feed, gone):
                self._checked.pop(feed)
                names = [view.steps[i].target for i in sorted(gone)[:SEVERAL]]
                words = f"{number} servers behind it went silent or lost power together"
                yield _tripped(feed, words, names, False, now_ms)

    def _is_tripped(self, view: RunView, feed: str, gone: Iterable[int]) -> bool:
        mine = self._of(view, self._by_feed, feed)
        racks = {view.steps[i].rack for i in gone}
        if len(racks) < 2 and len({view.steps[i].rack for i in mine}) > 1:
            return False
        return len(set(gone)) > sum(1 for i in mine if view.phases[i] == "running")

    def _lost(self, view: RunView, now_ms: int) -> Iterator[Event]:
        for server, stalled in sorted(view.boots.stalled.items()):
            number = len(stalled)
            if number < SEVERAL_STALLED:
                self._checked.pop(server, None)
            if number < self._checked.get(server, SEVERAL_STALLED):
                continue
            self._checked[server] = number + max(1, number // 4)
            mine = self._from(view, server)
            going = sum(1 for i in mine if view.phases[i] == "running" and i not in stalled)
            if 2 * number >= going and outages.is_row(view, mine):
                yield self._given_up(view, server, f"{number} boots from it in a row", now_ms)

    def _lost_at_last(self, view: RunView, now_ms: int) -> Iterator[Event]:
        for server, number in outages.dead_at_last(view):
            yield self._given_up(view, server, f"the last {number} boots from it", now_ms)

    def _given_up(self, view: RunView, server: str, which: str, now_ms: int) -> Event:
        other = self._other(view, server)
        words = f"{which} did not come up; "
        words += f"the others boot from {other}" if other else f"its site has no other boot server: {ALONE}"
        data: dict[str, Any] = {"server": server, "other": other, "why": words, "holds": not other}
        before = sorted(name for name, (by, _) in view.boots.lost_servers.items() if by == server)
        if before:
            data["stood_in"] = before
        return Event("boot_server_lost", now_ms, data=data)

    def _other(self, view: RunView, server: str) -> str:
        """Another boot server of the same site that is not known to be dead."""
        site, lost = view.steps[self._from(view, server)[0]].site, view.boots.lost_servers
        return next(
            (
                name
                for name, steps in sorted(self._by_server.items())
                if name not in {server, *lost} and view.steps[steps[0]].site == site
            ),
            "",
        )

    def _from(self, view: RunView, server: str) -> Sequence[int]:
        """Boots from it, including those taken over from others."""
        own = self._of(view, self._by_server, server)
        if not view.boots.served_by:
            return own
        mine = [i for i in own if view.boots.served_by.get(i, server) == server]
        return [*mine, *sorted(i for i, by in view.boots.served_by.items() if by == server)]

    def _of(self, view: RunView, table: dict[str, list[int]], name: str) -> Sequence[int]:
        if not self._by_feed:
            for i, step in enumerate(view.steps):
                for feed in step.feeds:
                    self._by_feed.setdefault(feed, []).append(i)
                if step.boot_server:
                    self._by_server.setdefault(step.boot_server, []).append(i)
        return table.get(name, ())


def _tripped(feed: str, why: str, servers: Sequence[str], is_open: bool, now_ms: int) -> Event:
    evidence = {"servers": ", ".join(servers)} if servers else {}
    return Event(
        "feed_tripped", now_ms, data={"feed": feed, "why": why, "open": is_open, "evidence": evidence}
    )


def _again(view: RunView, now_ms: int) -> list[Event]:
    """Boots that failed only because credentials were refused, or because evac itself lacked something, are
    retried once a person resumes.
    """
    return [
        Event(
            "step_retried",
            now_ms,
            view.steps[i].id,
            view.attempts[i],
            {"who": "evac", "reason": MENDED if view.failures.get(i, ("",))[0] == REFUSED else MADE_GOOD},
        )
        for i in sorted(view.boots.refused)[:_AT_ONCE]
        if view.phases[i] == "failed" or i in view.boots.quarantined
    ]


def _next_turns(view: RunView, now_ms: int) -> Iterator[Event]:
    """Boots that lacked an image and are retried now. Only servers without power before the run are switched
    off for it: nobody but evac, or a person since, has switched them on.
    """
    for _, i, why, last in outages.due(view, now_ms)[:_AT_ONCE]:
        cycle = i in view.boots.hung and view.steps[i].cold
        turn = view.spec.patience.attempts if last else view.boots.turns.get(i, 0) + 1
        data = {"who": "evac", "reason": why, "turn": turn, "cycle": cycle}
        yield Event("step_retried", now_ms, view.steps[i].id, view.attempts[i], data)


def _left_out(view: RunView, now_ms: int) -> Iterator[Event]:
    """The run continues without servers that do not come up; what draws power stays counted. What was to
    start on them is held for a while, so that a repaired plan can start it elsewhere.
    """
    for i, at_ms in list(view.boots.given_up.items())[:_AT_ONCE]:
        held = now_ms < at_ms + view.spec.mend_ms and is_waited_for(view, i)
        if not held and view.phases[i] in ("failed", "unknown"):
            code = view.failures.get(i, ("", ""))[0] if view.phases[i] == "failed" else "bmc-silent"
            where = UNHEARD if silent_servers.is_unheard(view, i) else "left to on-site staff"
            data = {"who": "evac", "reason": f"{where} ({code or 'in doubt'})"}
            yield Event("step_skipped", now_ms, view.steps[i].id, view.attempts[i], data)


def is_waited_for(view: RunView, i: int) -> bool:
    """Whether a step that has not begun will start on the server of step i."""
    return any(
        view.phases[j] == "pending" and kind_of(view.steps[j].kind).replicas > 0 for j in view.dependents[i]
    )


def next_ms(view: RunView) -> int | None:
    """When the run continues without the first held server."""
    first = min(view.boots.given_up.values(), default=None)
    return None if first is None else first + view.spec.mend_ms


def refusal(view: RunView) -> str:
    """Message for the pause because of refused credentials or something that evac lacks."""
    names = [view.steps[i].target for i in sorted(view.boots.refused)[:3]]
    more = f" and {len(view.boots.refused) - 3} more" if len(view.boots.refused) > 3 else ""
    if view.boots.missing:
        which = f"boot {', '.join(names)}{more}" if names else "check what it boots"
        missing = view.boots.missing
        return f"evac itself cannot {which}: {missing}; fix it, then resume. Nothing is sent until then"
    of = f" by {', '.join(names)}" if names else ""
    return (
        f"user name or password rejected{of}{more}: fix evac's password, then resume. "
        "If only these servers use a different password, skip their steps first. "
        "Nothing is sent until then, so that no account gets locked"
    )


def held_servers(view: RunView) -> dict[str, int]:
    """Dead boot servers without another at their site -> number of boots that wait for each."""
    found = dict.fromkeys(sorted(view.boots.unreplaced), 0)
    if found:
        for i, phase in enumerate(view.phases):
            if phase in ("ready", "pending") and (server := view.boots.queue_of(i)):
                found[server] += 1
        for server in found:
            found[server] += outages.held(view, server)
    return found


def why_waits(view: RunView, i: int) -> str:
    """What step i waits for, in words; empty if unknown."""
    why = view.whys.get(i, "")
    if not why and view.phases[i] == "ready" and (server := view.boots.queue_of(i)):
        why = f"waits for boot server {server}"
    return why


def silent_racks(view: RunView) -> dict[str, int]:
    """Racks with several silent servers and none up: their switch may be down, their power is unknown."""
    silent: dict[str, int] = {}
    up: set[str] = set()
    for i, step in enumerate(view.steps):
        if not step.rack:
            continue
        if view.phases[i] == "succeeded":
            up.add(step.rack)
        elif i in view.failures and view.failures[i][0] == "bmc-silent":
            silent[step.rack] = silent.get(step.rack, 0) + 1
    return {rack: number for rack, number in sorted(silent.items()) if number >= SEVERAL and rack not in up}
