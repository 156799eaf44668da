"""EV135: feeds on which a boot wave leaves no power for servers that restart by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.derive.limits import less_margin
from evac.model.fleet import CONDEMNED, IntColumn
from evac.model.records import dataclass

LOOPING_PERMILLE: Final = 5
"""Assumed share of servers in a boot loop after a power cut, the same as in the simulated fleet (`evac lab
fleet`). At least one a feed.
"""


@dataclass(frozen=True, slots=True)
class _ShortFeed:
    """A feed whose free inrush is less than what may start unrequested. one: watts of the largest server
    behind it; keep_percent: what should stay free.
    """

    feed: str
    site: str
    free: int
    one: int
    unasked_watts: int
    keep_percent: int


def check(context: Context) -> Iterator[Finding]:
    """Warning for each site where one such server is too much for a feed, note if only several at once are.

    No one controls when a looping server draws power, so only the free part of the budget can absorb it.
    """
    losses = context.impacts.losses.index
    found: dict[str, list[_ShortFeed]] = {}
    for short in _short_feeds(context):
        found.setdefault(short.site, []).append(short)
    for site, feeds in sorted(found.items()):
        severe = [one for one in feeds if one.free < one.one]
        feeds = severe or feeds
        worst = max(feeds, key=lambda one: (one.unasked_watts - one.free, one.feed))
        keep = max(one.keep_percent for one in feeds)
        yield RULE.finding(
            context,
            "warning" if severe else "note",
            site,
            f"servers that restart on their own may trip {counted(len(feeds), 'feed')} of "
            f"{site} in a cold start: {listed([one.feed for one in feeds])}: {worst.feed} has "
            f"{worst.free} W left for inrush in a cold start, but they draw up to {worst.unasked_watts} W",
            f"Keep {keep} % free: limits: power_margin: {keep} %; or allow fewer boots at once on a feed.",
            losses=[losses[site]] if site in losses else [],
            paths=(f"feeds/{worst.feed}/inrush_budget", f"feeds/{worst.feed}", f"sites/{site}"),
        )


def _short_feeds(context: Context) -> Iterator[_ShortFeed]:
    estate = context.estate
    margin = estate.limits.power_margin_permille
    full = {site.id for site in estate.sites if site.role == "full"}
    watts, behind = _inrush(context)
    count = behind.sum(axis=1)
    looping = np.maximum(1, -(-count * LOOPING_PERMILLE // 1_000))
    booting = np.array(
        [
            n if f.boots_at_once is None else f.boots_at_once
            for f, n in zip(estate.feeds, count.tolist(), strict=True)
        ],
        np.int64,
    )
    most, unasked = _largest(watts, behind, booting), _largest(watts, behind, looping)
    there, sent, alone = count.tolist(), most.tolist(), unasked.tolist()
    for row, feed in enumerate(estate.feeds):
        budget = feed.inrush_budget_watts
        if not budget or feed.site not in full or not there[row]:
            continue
        unasked_watts = alone[row]
        # Most feeds carry everything at once, so the detailed calculation is skipped.
        if budget - sent[row] >= unasked_watts:
            continue
        free = budget - min(less_margin(budget, margin), sent[row])
        if free < unasked_watts:
            keep = min(99, -(-unasked_watts * 100 // budget))
            one = int(watts[behind[row] > 0].max())
            yield _ShortFeed(feed.id, feed.site, free, one, unasked_watts, keep)


def _largest(watts: IntColumn, behind: IntColumn, most: IntColumn) -> IntColumn:
    """(feeds,) maximum draw of this many servers (feeds,), the largest first."""
    before = np.cumsum(behind, axis=1) - behind
    return np.asarray(np.clip(most[:, None] - before, 0, behind) @ watts, np.int64)


def _inrush(context: Context) -> tuple[IntColumn, IntColumn]:
    """(K,) distinct inrush watts of a server, largest first, and (feeds, K) how many bootable servers have
    each.
    """
    estate, top = context.estate, context.impacts.top
    fleet, classes = estate.fleet, estate.classes
    each = np.array([c.inrush_watts or 0 if c.inrush_ms else 0 for c in classes] + [0], np.int64)
    rows = np.flatnonzero((fleet.state != CONDEMNED) & (fleet.rack >= 0))
    key = fleet.rack[rows].astype(np.int64) * len(each) + fleet.server_class[rows] % len(each)
    by_rack = np.bincount(key, minlength=len(estate.racks) * len(each)).reshape(-1, len(each))
    behind = np.zeros((len(estate.feeds), len(each)), np.int64)
    np.add.at(behind, top.feed_rows, by_rack[top.feed_racks])
    order = np.argsort(-each, kind="stable")
    order = order[each[order] > 0]
    return each[order], behind[:, order]


RULE = Rule(
    "margin-too-small",
    "EV135",
    "Servers that restart on their own may trip a feed",
    check,
    per_loss=False,
)
