"""The status of the lab on a terminal: one picture, or a live one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evac_lab.journal_facts import Watchers
from evac_lab.status import SiteStatus, Status

_STYLES = {"up": "green", "burnt": "bold red", "cut off": "yellow"}


def picture(status: Status) -> RenderableType:
    """Sites side by side, then the clients."""
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    table.add_column("")
    for site in status.sites:
        table.add_column(Text(site.name, style="bold"))
    table.add_row("site", *(Text(site.state, style=_STYLES.get(site.state, "")) for site in status.sites))
    table.add_row("servers", *(_servers(site) for site in status.sites))
    table.add_row("messages", *(_word(site.postgres.partition(" -> ")[0]) for site in status.sites))
    if any(" -> " in site.postgres for site in status.sites):
        table.add_row("  copies", *(_copies(site.postgres) for site in status.sites))
    table.add_row("presence", *(_word(site.redis) for site in status.sites))
    table.add_row("DNS says", *(Text(", ".join(site.names) or "-") for site in status.sites))
    for row in _evac(status):
        table.add_row(*row)
    return Group(table, Text(""), _clients(status), *_runs(status))


def _evac(status: Status) -> Iterator[tuple[RenderableType, ...]]:
    """Who leads, and for the loss of which sites a plan lies ready."""
    if not any("controller" in site.servers for site in status.sites):
        return
    seen = status.watchers
    if seen is None:
        yield ("evac", *(Text("no answer", style="red") for _ in status.sites))
        return
    yield ("evac", *(_controller(site, seen.leader) for site in status.sites))
    yield ("plan for it", *(_plan(site.name, seen) for site in status.sites))


def _controller(site: SiteStatus, leader: str) -> Text:
    if site.servers.get("controller") != "up":
        return Text("-")
    return Text("leads", style="bold") if site.name == leader else Text("watches")


def _plan(site: str, seen: Watchers) -> Text:
    """Whether a fire there would have to wait for the planner."""
    if site in seen.ready:
        return Text("ready", style="green")
    return Text("none" if site in seen.problems else "being made", style="yellow")


def _runs(status: Status) -> list[Text]:
    """What a fire would wait for a person for; runs that have not ended, and where to read on."""
    if status.watchers is None:
        return []
    waits = not status.watchers.proven and any("controller" in site.servers for site in status.sites)
    words = "no synchronous copy is proven to hold every message: a fire would wait for a person"
    return [Text(words, style="yellow")] * waits + [
        Text(f"under way: {run}", style="yellow") for run in status.watchers.open_runs
    ]


def _servers(site: SiteStatus) -> Text:
    down = [role for role, state in site.servers.items() if state != "up"]
    if not down:
        return Text(f"all {len(site.servers)} up", style="green")
    return Text(f"down: {', '.join(down)}" if len(down) < len(site.servers) else "all down", style="red")


def _word(role: str) -> Text:
    return Text(role or "-", style="bold" if role.startswith("primary") else "")


def _copies(role: str) -> Text:
    """Who follows this primary, one a line; those that confirm commits first."""
    found = [one.split(" ") for one in role.partition(" -> ")[2].split(", ") if one]
    rows = sorted((how != "sync", f"{name} {how}") for name, how in found)
    return Text("\n".join(words for _, words in rows))


def _clients(status: Status) -> Text:
    last = "never" if status.last_write_seconds is None else f"{status.last_write_seconds:.1f} s ago"
    well = status.last_write_seconds is not None and status.last_write_seconds < 1.0
    words = (
        f"clients: {status.writes_per_second:g} writes/s acknowledged, last one {last}; "
        f"{status.failures_per_second:g} tries/s failed"
    )
    return Text(words, style="green" if well else "red")


def as_text(status: Status, width: int, colour: bool) -> str:
    """One picture as text."""
    console = Console(width=width, no_color=not colour, force_terminal=colour, highlight=False)
    with console.capture() as captured:
        console.print(picture(status))
    return captured.get()


def live(look: Callable[[], Status], period_s: float = 0.5, seconds: float | None = None) -> None:
    """Draws again and again until interrupted, or for so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    with Live(picture(look()), refresh_per_second=8, screen=False) as shown:
        while end is None or time.monotonic() < end:
            time.sleep(period_s)
            shown.update(picture(look()))
