"""Where each number of the example comes from: `published: ...` or `assumed: ...`, by fact path.

One fact per entry covers all below it, so the list stays readable at any scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Final

from evac.estate.examples.company import Blueprint
from evac.estate.examples.grounds import FULL_SERVERS, LOST_SITE
from evac.model.estate import Estate, Fact

_PRESS: Final = "published: reports on the Kakao outage of 15 October 2022"
_CURE: Final = "assumed: the cure"
_ONE_BY_ONE: Final = {
    "approval": "assumed",
    "detection": "assumed",
    "limits": "assumed; that servers had to be booted by hand is published, how long a hand takes is not",
    "racks": "assumed: at most 40 servers in a rack, one class each",
    "replicas": "assumed: 200,000 per 90,000 servers",
}
_CHAT_PEOPLE: Final = "services/messenger-chat-front/people"


def facts(
    estate: Estate, blueprints: tuple[Blueprint, ...], mended: bool, observed: date
) -> tuple[Fact, ...]:
    """Facts for every entry of the estate, sorted by path; `observed` is the date they bear."""
    found = dict(_ONE_BY_ONE)
    found["servers"] = _server_source(len(estate.fleet), mended)
    for section, ids, source in _sections(estate, mended):
        found |= {f"{section}/{name}": source for name in ids}
    found |= {f"tools/{role}": _tool_source(role, mended) for role in estate.tools}
    found |= {f"services/{b.id}": _service_source(b) for b in blueprints}
    lost = "32,000 servers" if len(estate.fleet) == FULL_SERVERS else "32,000 servers, scaled here"
    found[f"sites/{LOST_SITE}"] = f"{_PRESS}: the site that was lost, {lost}; its budgets are assumed"
    if any(b.id == "messenger-chat-front" for b in blueprints):
        found[_CHAT_PEOPLE] = "published: about 47 million users of the messenger"
    return tuple(Fact(path, source, observed) for path, source in sorted(found.items()))


def _sections(estate: Estate, mended: bool) -> tuple[tuple[str, Iterable[object], str], ...]:
    rehearsed = _CURE if mended else f"{_PRESS}: the loss of a whole site had never been rehearsed"
    stored = (
        _CURE if mended else "assumed: drawn; that some data had no copy elsewhere is published, not which"
    )
    return (
        ("automations", _ids(estate.automations), "assumed"),
        ("boot_servers", _ids(estate.boot_servers), "assumed: one per hall, slots in proportion to servers"),
        ("classes", _ids(estate.classes), "assumed: typical machines of their kind"),
        ("expiring", _ids(estate.expiring), "assumed"),
        ("feeds", _ids(estate.feeds), "assumed: two per row of racks, one rack in twenty on a single feed"),
        ("groups", _ids(estate.groups), "assumed; that the fire began among the batteries is published"),
        ("halls", _ids(estate.halls), "assumed: four per site"),
        ("links", range(len(estate.links)), "assumed"),
        ("recovery_groups", _ids(estate.recovery_groups), "assumed"),
        ("rehearsals", range(len(estate.rehearsals)), rehearsed),
        ("sites", _ids(estate.sites), "assumed: name and size; that there were four sites is published"),
        ("stores", _ids(estate.stores), stored),
    )


def _ids(entries: Iterable[object]) -> list[str]:
    return [str(getattr(entry, "id")) for entry in entries]  # noqa: B009


def _server_source(servers: int, mended: bool) -> str:
    text = f"assumed: {servers:,} in all; Pangyo holds 32,000 (published) of every 90,000 (assumed)"
    if mended:
        return text
    return text + "; that spare capacity elsewhere was too small and hands booted Pangyo is published"


def _tool_source(role: str, mended: bool) -> str:
    if mended:
        return _CURE
    if role == "deploy":
        return f"{_PRESS}: the redistribution system was duplicated only inside the lost building"
    if role == "evac":
        return "assumed: this program did not exist then"
    if role == "time":
        return "assumed"
    return f"{_PRESS}: work and operation tools had no copy elsewhere; which tools is assumed"


def _service_source(blueprint: Blueprint) -> str:
    part = blueprint.component
    return (
        f"assumed: {part} of {blueprint.family}; replicas and demand drawn (lognormal), people by Zipf rank"
    )
