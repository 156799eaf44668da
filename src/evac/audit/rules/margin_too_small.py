"""EV135: feeds on which a wave leaves no room for servers that start again by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.audit.context import Context, Maker, Rule
from evac.audit.findings import Finding
from evac.audit.words import counted, listed
from evac.model.derive_limits import less_margin
from evac.model.estate import Feed
from evac.model.fleet import CONDEMNED, IndexColumn, IntColumn

LOOPING_PERMILLE: Final = 5
"""Servers that start again and again after a power cut: an assumption, the same as of the simulated fleet
(`evac lab fleet`). At least one a feed."""

_MAKER = Maker("margin-too-small", "EV135")


@dataclass(frozen=True, slots=True)
class _Short:
    """A feed whose free inrush is less than what may come unasked. one: watts of the largest server behind
    it; keep_percent: what should stay free.
    """

    feed: str
    site: str
    free: int
    one: int
    wanted: int
    keep_percent: int


def check(context: Context) -> Iterator[Finding]:
    """Warning for each site where one such server is too much for a feed, note where several at once are.

    What a server draws that starts again by itself nobody sends, so nobody can wait with it: only what stays
    free of the budget holds it.
    """
    losses = context.impacts.losses.index
    found: dict[str, list[_Short]] = {}
    for short in _short_feeds(context):
        found.setdefault(short.site, []).append(short)
    for site, feeds in sorted(found.items()):
        severe = [one for one in feeds if one.free < one.one]
        feeds = severe or feeds
        worst = max(feeds, key=lambda one: (one.wanted - one.free, one.feed))
        keep = max(one.keep_percent for one in feeds)
        yield _MAKER.make(
            context, "warning" if severe else "note", site,
            f"servers that start again by themselves may trip {counted(len(feeds), 'feed')} of "
            f"{site} in a cold start: {listed([one.feed for one in feeds])}: {worst.feed} has "
            f"{worst.free} W of inrush free beside the wave, and they draw up to {worst.wanted} W",
            f"Keep {keep} % free: limits: power_margin: {keep} %; or allow fewer boots at once on a feed.",
            losses=[losses[site]] if site in losses else [],
            paths=(f"feeds/{worst.feed}/inrush_budget", f"feeds/{worst.feed}", f"sites/{site}"),
        )  # fmt: skip


def _short_feeds(context: Context) -> Iterator[_Short]:
    top, estate = context.impacts.top, context.estate
    margin = estate.limits.power_margin_permille
    full = {site.id for site in estate.sites if site.role == "full"}
    watts, order, first = _inrush_by_rack(context)
    for row, feed in enumerate(estate.feeds):
        budget = feed.inrush_budget_watts
        if not budget or feed.site not in full:
            continue
        racks = top.feed_racks[top.feed_rows == row].tolist()
        rows = [order[first[rack] : first[rack + 1]] for rack in racks]
        behind = np.sort(watts[np.concatenate(rows)]) if rows else watts[:0]
        behind = behind[behind > 0][::-1]
        if not len(behind):
            continue
        free = budget - min(less_margin(budget, margin), _most_at_once(feed, behind))
        looping = max(1, -(-len(behind) * LOOPING_PERMILLE // 1_000))
        wanted = int(behind[:looping].sum())
        if free < wanted:
            keep = min(99, -(-wanted * 100 // budget))
            yield _Short(feed.id, feed.site, free, int(behind[0]), wanted, keep)


def _most_at_once(feed: Feed, behind: IntColumn) -> int:
    """The most inrush that boots draw at once: of as many servers as may boot, those that draw most."""
    return int(behind[: feed.boots_at_once].sum())


def _inrush_by_rack(context: Context) -> tuple[IntColumn, IndexColumn, IntColumn]:
    """(V,) watts of inrush of what may boot, rows by rack, and where each rack begins in them."""
    fleet, classes = context.estate.fleet, context.estate.classes
    each = np.array([c.inrush_watts or 0 if c.inrush_ms else 0 for c in classes] + [0], np.int64)
    watts = np.where(fleet.state != CONDEMNED, each[fleet.server_class], 0)
    order = np.argsort(fleet.rack, kind="stable").astype(np.int32)
    first = np.searchsorted(fleet.rack[order], np.arange(len(context.estate.racks) + 1))
    return np.asarray(watts, np.int64), order, np.asarray(first, np.int64)


RULE = Rule(
    "margin-too-small",
    "EV135",
    "Servers that start again by themselves may trip a feed",
    check,
    per_loss=False,
    reads=("caps", "fleet"),
)
