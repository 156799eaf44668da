"""Servers that are silent like everything behind their feeds: the network there may not be up yet. Pure.

They do not belong on the hands-on list. They wait; the feed watch probes one of them now and then, and all
are retried once one answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from evac.run.view import RunView

SILENT: Final = "bmc-silent"
_TOLD: Final = frozenset(
    {
        "bmc-lying",
        "bmc-not-allowed",
        "bmc-password",
        "bmc-tls",
        "bmc-wrong-serial",
        "server-boot-loop",
        "server-no-boot",
        "server-power-fault",
        "server-wrong-image",
    }
)
"""Failures that only a response can show. Others occur without one: a turn that did not come, a password that
is no longer sent, a program that crashed.
"""
LEAST: Final = 3
"""Fewer are assumed to be broken themselves."""
_GIVEN_UP: Final = frozenset({"failed", "skipped", "unknown"})


def tells(code: str) -> bool:
    """Whether a failure certainly came from a management controller: it answered."""
    return code in _TOLD


def hears(view: RunView, feeds: Iterable[str], at_ms: int) -> None:
    """A management controller behind these feeds answered: servers that were silent before are retried."""
    new = [feed for feed in feeds if feed not in view.boots.heard and feed not in view.boots.tripped]
    if not new:
        return
    unheard = [i for i in sorted({*view.boots.quarantined, *view.boots.given_up}) if is_unheard(view, i)]
    view.boots.heard.update(dict.fromkeys(new, at_ms))
    for i in unheard:
        if any(feed in new for feed in view.steps[i].feeds):
            view.take_back(i)
    for i in [i for i in view.unclear if any(feed in new for feed in view.steps[i].feeds)]:
        del view.unclear[i]  # what looks did not see before proves nothing


def is_given_up(view: RunView, i: int) -> None:
    """Step i failed for good. A try that began before anything behind its feeds had answered proves
    nothing.
    """
    since_ms = max((view.boots.heard.get(feed, -1) for feed in view.steps[i].feeds), default=-1)
    if view.started[i] <= since_ms and view.failures.get(i, ("",))[0] == SILENT:
        view.take_back(i)


def is_unheard(view: RunView, i: int) -> bool:
    """Whether step i was given up because its controller is silent like everything behind its feeds. If its
    last try has an unknown effect, it is checked first.
    """
    step = view.steps[i]
    if step.manual or not step.feeds or not (i in view.boots.quarantined or i in view.boots.given_up):
        return False
    if view.phases[i] not in _GIVEN_UP or any(feed in view.boots.heard for feed in step.feeds):
        return False
    return i not in view.boots.hung if i in view.boots.blind else view.failures.get(i, ("",))[0] == SILENT


def waiting(view: RunView) -> dict[tuple[str, ...], int]:
    """Feeds behind which nothing has answered -> how many servers wait for that, if several."""
    return {feeds: len(boots) for feeds, boots in sorted(_behind(view).items()) if len(boots) >= LEAST}


def are_waiting(view: RunView) -> frozenset[int]:
    """The boots of servers that wait for that."""
    return frozenset(i for boots in _behind(view).values() if len(boots) >= LEAST for i in boots)


def _behind(view: RunView) -> dict[tuple[str, ...], list[int]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for i in {*view.boots.quarantined, *view.boots.given_up}:
        if is_unheard(view, i):
            found.setdefault(view.steps[i].feeds, []).append(i)
    return found
