"""What events mean for power: what a boot holds, changed limits, tripped feeds, dead boot servers.

A server draws its watts from its start until it is off: what its step keeps is released when it is undone,
seen off, or failed with a code that draws nothing. A tripped feed takes its servers with it: their steps must
be repeated and wait until the feed is closed, which needs a person's approval.
"""

from __future__ import annotations

from typing import Final

from evac.model.boot_codes import BOOT_CODES
from evac.model.step_id import power_step
from evac.run.boots import silent_servers
from evac.run.table import refused, run_moves
from evac.run.values import Event, StepPhase
from evac.run.view import RunView
from evac.steps.registry import kind_of

REFUSED: Final = "credentials-refused"
OWN: Final = frozenset(
    {
        "command-missing",
        "command-not-started",
        "driver-library-missing",
        "driver-unknown",
        "secret-missing",
        "secret-open",
        "secret-reference",
        "secret-short",
        "secret-too-large",
        "secret-unreadable",
    }
)
"""Codes about what evac boots servers with, not about one server: they affect all."""
_MAY_BE_OWN: Final = ("agent-", "driver-", "setting-", "tls-")
ARRIVES_MS: Final = 5_000
"""How long after a leader change a request of the old leader may still arrive."""
MAYBE_SENT: Final[frozenset[StepPhase]] = frozenset({"unknown", "pending", "ready"})
"""Of begun boots: those in doubt and those that wait to start again."""
GONE: Final = frozenset({"bmc-silent", "server-power-fault"})
"""Codes of a server that fell silent or went off after it had answered."""
STALLED: Final = frozenset({"server-no-boot"})
TOGETHER_MS: Final = 120_000
"""Servers that fall silent within this time may share a cause."""
SEVERAL: Final = 3
SIGNS_MOST: Final = 2
"""A server involved in this many trips that has not come up since has its own fault."""
SEVERAL_STALLED: Final = 5
_NOT_BEGUN: Final = frozenset({"timeout", "driver-broken", "bmc-silent"})
"""This try began nothing; what an earlier one did was not checked."""
_SEEN_OFF: Final = frozenset({"not-ready", "not-done"})
"""A later try checks first and continues only if the server is off, so these codes imply that it is off."""


def is_begun(view: RunView, i: int) -> None:
    """A try of step i began and from which boot server. At a new boot server it gets all of its turns."""
    server = view.boots.server_of(i)
    if server != view.booted_from(i):
        view.boots.turns.pop(i, None)
    if server == view.steps[i].boot_server:
        view.boots.served_by.pop(i, None)
    else:
        view.boots.served_by[i] = server


def is_up(view: RunView, i: int) -> None:
    """Step i is done, or a person attests it: what it keeps counts, whoever began it."""
    if i in view.keeps and i not in view.keeping:
        view.limits.take(view.keeps[i].kept, view.last_ms)
        view.keeping[i] = view.attempts[i]
    view.boots.quarantined.discard(i)
    _is_told(view, i)
    view.boots.turns.pop(i, None)
    view.boots.trip_signs.pop(i, None)
    view.boots.given_up.pop(i, None)
    if kind_of(view.steps[i].kind).boots:
        view.boots.misconfigured.clear()
        if not view.steps[i].manual and "attested_by" not in view.evidence.get(i, ()):
            silent_servers.hears(view, view.steps[i].feeds, view.last_ms)
    step = view.steps[i]
    for feed in step.feeds:
        view.boots.gone.pop(feed, None)
    _serves(view, i)
    if view.boots.tripped and kind_of(step.kind).gives_power:
        view.boots.tripped.pop(step.target, None)
        view.boots.gates.pop(i, None)


def _serves(view: RunView, i: int) -> None:
    """Step i came up: its boot server worked when it began, which says nothing about later boots."""
    server = view.booted_from(i)
    later = {
        j: at for j, at in view.boots.stalled.pop(server, {}).items() if view.started[j] > view.started[i]
    }
    if later:
        view.boots.stalled[server] = later


def serves_again(view: RunView, i: int) -> None:
    """Step i came up. If it began after its boot server was given up, that server works: the rest
    continue.
    """
    server = view.booted_from(i)
    boots = view.boots
    since = boots.unreplaced_ms.get(server, 0)
    if server not in boots.unreplaced or view.started[i] <= since or not kind_of(view.steps[i].kind).boots:
        return
    boots.unreplaced.discard(server)
    boots.lost_servers.pop(server, None)
    for j in range(len(view.steps)):
        tried = view.ended[j] > since and boots.server_of(j) == server
        if tried and _is_given_up(view, j) and _is_stalled(view, j):
            view.take_back(j)


def is_down(view: RunView, i: int, event: Event) -> None:
    """A try of step i failed: keeps holding what may still draw power."""
    _is_told(view, i)
    code = event.data.get("code", "")
    if i in view.keeping and _draws_nothing(view, i, event, code):
        view.release(i)
    if silent_servers.tells(code) and kind_of(view.steps[i].kind).boots:
        silent_servers.hears(view, view.steps[i].feeds, event.at_ms)
    own = code in OWN or (view.boots.refusing and _may_be_own(code))
    if code == REFUSED or (own and kind_of(view.steps[i].kind).boots):
        _refuses(view, code, event.data.get("message", ""))
        if view.phases[i] == "failed":
            view.boots.refused.add(i)
    elif view.phases[i] == "failed" and kind_of(view.steps[i].kind).boots:
        view.boots.given_up[i] = event.at_ms
        if _may_be_own(code):
            _is_misset(view, i, event)
        silent_servers.is_given_up(view, i)
    if not view.steps[i].feeds and not view.steps[i].boot_server:
        return
    if view.boots.is_dark(i) or (view.phases[i] == "failed" and view.was_dark(i)):
        view.take_back(i)
    elif code == "server-power-fault":
        _note_gone(view, i, event.at_ms)
    elif code in STALLED:
        _stalls(view, i, event.at_ms)


def _may_be_own(code: str) -> bool:
    """Whether a failure may concern one server or all: settings, an absent agent, an internal error of evac.
    Several in a row, with none that came up between them, decide.
    """
    return code.startswith(_MAY_BE_OWN)


def _refuses(view: RunView, code: str, words: str) -> None:
    """Nothing begins until a person resumes. What evac itself lacks is reported before a password."""
    view.boots.refusing = True
    if code != REFUSED:
        view.boots.missing = f"{words} [{code}]"


def _is_misset(view: RunView, i: int, event: Event) -> None:
    """Several servers in a row could not be reached, so it is not the server: they are retried once it is
    fixed.
    """
    view.boots.misconfigured.add(i)
    if len(view.boots.misconfigured) >= SEVERAL_STALLED:
        _refuses(view, event.data["code"], event.data.get("message", ""))
        for j in view.boots.misconfigured:
            view.boots.refused.add(j)
            view.boots.given_up.pop(j, None)
        view.boots.misconfigured.clear()


def _is_told(view: RunView, i: int) -> None:
    """The last try of step i has a result."""
    view.boots.blind.discard(i)
    view.boots.hung.discard(i)
    view.boots.cycled.discard(i)


def is_retried(view: RunView, i: int, event: Event) -> None:
    """Step i is retried: in its turn, or because a person asked, which restores all of its turns."""
    view.boots.cycled.discard(i)
    turn = event.data.get("turn", 0)
    if not turn:
        view.boots.turns.pop(i, None)
        return
    view.boots.turns[i] = turn
    if event.data.get("cycle"):
        view.boots.cycled.add(i)


def _draws_nothing(view: RunView, i: int, event: Event, code: str) -> bool:
    if event.data.get("off") is True or code in _SEEN_OFF:
        return True
    if code in _NOT_BEGUN:
        return view.keeping[i] == event.attempt
    known = BOOT_CODES.get(code)
    return known is not None and not known.draws


def is_gone(view: RunView, i: int, event: Event) -> None:
    """Step i is in doubt; a server that fell silent after it had answered may have lost power."""
    _may_refuse(view, i, event.data.get("code", ""), event.data.get("message", ""))
    if view.phases[i] != "unknown" or not view.steps[i].feeds:
        return
    if view.boots.is_dark(i):
        view.take_back(i)
    elif event.data.get("code", "") in GONE:
        _note_gone(view, i, event.at_ms)


def is_unclear(view: RunView, i: int, event: Event) -> None:
    """A look gave no information."""
    evidence = event.data.get("evidence", {})
    _may_refuse(view, i, evidence.get("code", ""), evidence.get("why", ""))


def _may_refuse(view: RunView, i: int, code: str, words: str) -> None:
    """Step i is in doubt for a reason that affects all."""
    if code == REFUSED or (code in OWN and kind_of(view.steps[i].kind).boots):
        _refuses(view, code, words)


def _note_gone(view: RunView, i: int, at_ms: int) -> None:
    if view.boots.trip_signs.get(i, 0) >= SIGNS_MOST:
        return
    for feed in view.steps[i].feeds:
        found = view.boots.gone.setdefault(feed, {})
        for j in [j for j, then in found.items() if at_ms - then > TOGETHER_MS]:
            del found[j]
        found[i] = at_ms


def is_stuck(view: RunView, i: int, event: Event) -> None:
    """Step i takes far longer than predicted."""
    if view.steps[i].boot_server:
        _stalls(view, i, event.at_ms)


def _stalls(view: RunView, i: int, at_ms: int) -> None:
    """Step i does not come up: its own fault, or its boot server is dead."""
    server, lost = view.booted_from(i), view.boots.lost_servers.get(view.steps[i].boot_server)
    if server not in view.boots.lost_servers:
        view.boots.stalled.setdefault(server, {})[i] = at_ms
    elif view.phases[i] in ("failed", "skipped") and lost and view.started[i] <= lost[1]:
        view.take_back(i)


def is_doubtful(view: RunView, i: int, code: str) -> None:
    """Step i stays unclear after several looks; others do not wait for a silent server. One that answers and
    does not come up may lack its image. Why an earlier try failed no longer matters.
    """
    if kind_of(view.steps[i].kind).boots and i not in view.leftover:
        view.boots.given_up[i] = view.last_ms
        view.boots.blind.add(i)
        view.boots.hung.discard(i)
        if not code and view.steps[i].boot_server:
            view.boots.hung.add(i)
            _stalls(view, i, view.last_ms)


def is_left_out(view: RunView, i: int, event: Event) -> None:
    """Step i is skipped by evac because its server goes to on-site staff. If it began before its boot server
    was given up, it is retried once that works.
    """
    boots = view.boots
    if i in boots.given_up:
        boots.given_up.pop(i)
        boots.quarantined.add(i)
        if view.started[i] <= boots.unreplaced_ms.get(boots.server_of(i), -1) and _is_stalled(view, i):
            view.take_back(i)


def limit_changed(view: RunView, event: Event) -> None:
    view.limits.change(event.data["limit"], event.data["capacity"])
    run_moves(view, event, event.kind)
    view.capacities[event.data["limit"]] = event.data["capacity"]


def seen_open(view: RunView, event: Event) -> None:
    """Someone checked what was done: a breaker is open again."""
    step = view.steps[view.number(event.step)] if event.step else None
    if step is not None and kind_of(step.kind).gives_power:
        view.boots.open_breakers.add(step.target)


def feeds_seen(view: RunView, event: Event) -> None:
    """A server behind each of them answered: the next leader knows that they had power."""
    run_moves(view, event, event.kind)
    view.boots.powered.update(feed for feed in event.data["feeds"] if feed not in view.boots.tripped)
    silent_servers.hears(view, event.data["feeds"], event.at_ms)


def switched_on(view: RunView, event: Event) -> None:
    """The controllers of these servers accepted the request: their inrush and boot begin now."""
    run_moves(view, event, event.kind)
    for name in event.data["steps"]:
        i = view.number(name)
        if view.phases[i] != "running":
            raise refused(view, event, f"is of {name}, which is {view.phases[i]}")
        _rushes(view, i, event.at_ms, view.started[i])


def _rushes(view: RunView, i: int, at_ms: int, began_ms: int) -> None:
    """Its inrush begins at this time at the latest, and counts from then, not from the start of the step."""
    view.boots.inrush_ms[i] = at_ms
    for number, units, hold_ms in view.uses[i]:
        if hold_ms > 0 and view.limits.is_inrush(number):
            view.limits.hold_on(number, units, began_ms + hold_ms, at_ms + hold_ms)


def is_orphaned(view: RunView, i: int) -> None:
    """A boot is running and its leader is gone. One whose controller accepted the request is treated as seen
    on.
    """
    if i in view.boots.inrush_ms:
        view.boots.booting.add(i)


def may_arrive(view: RunView, event: Event) -> None:
    """Leader change: requests that the old leader sent before its lease ended may still arrive. The old
    leader's times continue as if none had passed between its last event and the new one's first.
    """
    later_ms = max(0, event.at_ms - view.last_ms)
    for i, phase in enumerate(view.phases):
        if not (view.attempts[i] and phase in MAYBE_SENT and kind_of(view.steps[i].kind).boots):
            continue
        if i in view.boots.inrush_ms:
            view.boots.inrush_ms[i] += later_ms
        else:
            _rushes(view, i, event.at_ms + ARRIVES_MS, view.started[i] + later_ms)


def is_undone(view: RunView, i: int) -> None:
    """Step i was undone: a feed that it had closed is open."""
    if kind_of(view.steps[i].kind).gives_power:
        view.boots.powered.discard(view.steps[i].target)
        view.boots.heard.pop(view.steps[i].target, None)


def feed_tripped(view: RunView, event: Event) -> None:
    """Resets what was on behind the feed, and requires a person's check before it is closed again."""
    run_moves(view, event, event.kind)
    feed = event.data["feed"]
    view.boots.tripped[feed] = bool(event.data.get("open", False))
    view.boots.tripped_ms[feed] = event.at_ms
    for i in view.boots.gone.pop(feed, ()):
        view.boots.trip_signs[i] = view.boots.trip_signs.get(i, 0) + 1
    view.boots.open_breakers.discard(feed)
    view.boots.powered.discard(feed)
    view.boots.heard.pop(feed, None)
    closing = _gate(view, feed)
    if closing >= 0 and view.phases[closing] in _BACK:
        view.take_back(closing)
    for i, step in enumerate(view.steps):
        if feed in step.feeds and view.boots.is_dark(i) and _comes_back(view, i, event.at_ms):
            view.take_back(i)


def _gate(view: RunView, feed: str) -> int:
    """Nobody closes the feed before a person has checked. Returns the step that closes it; -1 if there is
    none.
    """
    closing = view.index.get(power_step(feed), -1)
    if closing >= 0:
        view.boots.gates[closing] = f"{feed} tripped: find out why before the breaker is closed again"
        view.gates_open.discard(closing)
    return closing


def gate_tripped(view: RunView) -> None:
    """Applies tripped feeds to a new plan, which does not know them."""
    for feed in view.boots.tripped:
        _gate(view, feed)


def boot_server_lost(view: RunView, event: Event) -> None:
    """Boots that have not begun move to another boot server, and boots that did not come up are retried
    there; without another one they wait. This includes boots that it had taken over from others that died
    before.
    """
    run_moves(view, event, event.kind)
    server, other = event.data["server"], event.data.get("other", "")
    before = event.data.get("stood_in", ())
    view.boots.lost_servers[server] = other, event.at_ms
    view.boots.lost_servers.update((name, (other or server, event.at_ms)) for name in before)
    if event.data.get("holds"):
        view.boots.unreplaced.add(server)
        view.boots.unreplaced_ms[server] = event.at_ms
    stalled = view.boots.stalled.pop(server, {})
    newer = "holds" in event.data  # an older version recorded less
    lacks = _is_stalled if newer else _failed_for_image
    mine = [i for i, step in enumerate(view.steps) if step.boot_server in {server, *before}]
    for i in mine:
        if not (view.phases[i] in ("pending", "ready", "failed") or i in view.boots.quarantined):
            continue
        view.reroute(i)
        known = newer and i in stalled and _is_given_up(view, i)
        tried = view.booted_from(i) == server and lacks(view, i)
        if tried and (known or _comes_back(view, i, event.at_ms)):
            view.take_back(i)


def _is_given_up(view: RunView, i: int) -> bool:
    return view.phases[i] == "failed" or i in view.boots.quarantined


def _is_stalled(view: RunView, i: int) -> bool:
    """Whether its last try ended without an image. If its effect is unknown, a person checks."""
    return i not in view.boots.blind and _failed_for_image(view, i)


def _failed_for_image(view: RunView, i: int) -> bool:
    return view.failures.get(i, ("",))[0] in STALLED


def reroute_all(view: RunView) -> None:
    """Applies dead boot servers to a new plan, which may not know them."""
    for i, step in enumerate(view.steps):
        if step.boot_server in view.boots.lost_servers:
            view.reroute(i)


def _comes_back(view: RunView, i: int, at_ms: int) -> bool:
    """Whether a done or tried boot must be repeated; of those left out, the ones with the same trouble."""
    if view.phases[i] == "skipped":
        return i in view.boots.quarantined and at_ms - view.ended[i] <= TOGETHER_MS
    return view.phases[i] in _BACK


_BACK: Final = frozenset({"succeeded", "failed", "unknown"})
