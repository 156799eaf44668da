"""The list for on-site staff: servers that did not come up, where they are, what to do.

As text, CSV, JSON and on paper: A4, a header on every page, a box to tick for each server. Sorted in walking
order: hall, rack, position. Servers that came up degraded are listed separately: they serve, but need a
check.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, Final

from evac.model.boot_codes import BOOT_CODES
from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac.run.boots import silent_servers
from evac.run.boots.outages import lacks_image
from evac.run.boots.rules import silent_racks
from evac.run.values import ENDED
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.views import rendered
from evac.views.sheet import Page
from evac.views.words import number, plural

SCHEMA_VERSION: Final = 1
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with, also in full width."""
COLUMNS: Final = (
    "hall",
    "rack",
    "position",
    "server",
    "serial",
    "code",
    "reason",
    "what_to_do",
    "may_draw_power",
    "tries",
)
NETWORK: Final = "nothing behind its feed has answered: check the network and the breaker first; "
WAITS: Final = "then it is retried automatically"
SWITCH: Final = "every server here is silent: check the rack's switch first; "
_DOUBT: Final = (
    "in-doubt",
    "it was asked to boot and has been silent since",
    "check the power LED and the console",
)
_DEGRADED: Final = "check disks and RAID before it takes load"

Place = Mapping[str, Any]
"""Parameters of a boot action: network (the hall), rack, position, serial."""


@dataclass(frozen=True, slots=True)
class Left:
    """One server."""

    hall: str
    rack: str
    position: str
    server: str
    serial: str
    code: str
    reason: str
    """What is wrong."""
    remedy: str
    """What a person should do."""
    draws: bool
    """It may still draw power."""
    tries: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Servers that people must check."""

    run: str
    boots: int
    """All servers of the run."""
    down: tuple[Left, ...]
    """Servers that did not come up."""
    degraded: tuple[Left, ...]
    """Servers that came up but need a check."""


def quarantine_of(view: RunView, place_of: Callable[[str], Place]) -> Quarantine:
    """place_of: the parameters of a step's boot."""
    racks, unheard_ones = silent_racks(view), silent_servers.are_waiting(view)
    boots = [i for i, step in enumerate(view.steps) if kind_of(step.kind).boots]
    down = [
        _down(view, i, place_of, racks, i in unheard_ones)
        for i in boots
        if i in view.boots.quarantined or i in view.doubtful or view.phases[i] == "failed"
    ]
    degraded = [
        _degraded(view, i, place_of)
        for i in boots
        if view.phases[i] == "succeeded" and view.evidence.get(i, {}).get("state") == "degraded"
    ]
    return Quarantine(view.spec.run, len(boots), _sorted(down), _sorted(degraded))


def _down(
    view: RunView, i: int, place_of: Callable[[str], Place], racks: Mapping[str, int], is_unheard: bool
) -> Left:
    code, message = view.failures.get(i, ("", ""))
    doubt = i in view.boots.blind or (i in view.whys and view.phases[i] != "failed")
    if not code or doubt:
        code, reason, remedy = _DOUBT
    elif code in BOOT_CODES:
        reason, remedy = BOOT_CODES[code].words, BOOT_CODES[code].remedy
    else:
        reason, remedy = message or code, "check it, then evac run retry or evac run attest"
    if is_unheard:
        remedy = NETWORK + (remedy if view.phase in ENDED else WAITS)
    elif view.steps[i].rack in racks:
        remedy = SWITCH + remedy
    if lacks_image(view, i) and (server := view.boots.server_of(i)) in view.boots.unreplaced:
        again = "" if view.phase in ENDED else ", and it is retried"
        remedy = f"boot server {server} is not serving, so fix it first{again}; {remedy}"
    return _left(view, i, place_of, code, reason, remedy)


def _degraded(view: RunView, i: int, place_of: Callable[[str], Place]) -> Left:
    why = str(view.evidence[i].get("why", "")) or "its health is degraded"
    return _left(view, i, place_of, "degraded", why, _DEGRADED)


def _left(
    view: RunView, i: int, place_of: Callable[[str], Place], code: str, reason: str, remedy: str
) -> Left:
    step, place = view.steps[i], place_of(view.steps[i].id)
    hall, rack = str(place.get("network", "")), str(place.get("rack", "") or step.rack)
    return Left(
        hall,
        rack,
        str(place.get("position", "")),
        step.target,
        str(place.get("serial", "")),
        code,
        reason,
        remedy,
        i in view.keeping,
        view.attempts[i],
    )


def _sorted(rows: Iterable[Left]) -> tuple[Left, ...]:
    return tuple(
        sorted(rows, key=lambda one: tuple(map(_natural, (one.hall, one.rack, one.position, one.server))))
    )


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """Sort key with numbers in numeric order: r9 before r10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d{1,15})", text))


def _row(one: Left) -> tuple[str, ...]:
    return (
        one.hall,
        one.rack,
        one.position,
        one.server,
        one.serial,
        one.code,
        one.reason,
        one.remedy,
        "yes" if one.draws else "no",
        str(one.tries),
    )


def csv_cell(text: str) -> str:
    """A cell that no spreadsheet interprets as a formula."""
    is_formula = text.startswith(("\t", "\r")) or text.lstrip().startswith(_FORMULA)
    return f"'{text}" if is_formula else text


def quarantine_csv(found: Quarantine) -> str:
    """One line per server, for spreadsheets and ticket systems; `state` is down or degraded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("state", *COLUMNS))
    for state, rows in (("down", found.down), ("degraded", found.degraded)):
        for one in rows:
            writer.writerow((state, *map(csv_cell, _row(one))))
    return stream.getvalue()


def quarantine_json(found: Quarantine) -> str:
    def rows(of: Iterable[Left]) -> list[dict[str, Any]]:
        return [
            {**dict(zip(COLUMNS, _row(one), strict=True)), "may_draw_power": one.draws, "tries": one.tries}
            for one in of
        ]

    document = {
        "schema_version": SCHEMA_VERSION,
        "run": found.run,
        "boots": found.boots,
        "down": rows(found.down),
        "degraded": rows(found.degraded),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def quarantine_read(text: str) -> Quarantine:
    """What `quarantine_json` wrote. Raises InvalidInput for anything else."""
    try:
        told = json.loads(text)

        def rows(name: str) -> tuple[Left, ...]:
            return tuple(
                Left(
                    str(row["hall"]),
                    str(row["rack"]),
                    str(row["position"]),
                    str(row["server"]),
                    str(row["serial"]),
                    str(row["code"]),
                    str(row["reason"]),
                    str(row["what_to_do"]),
                    bool(row["may_draw_power"]),
                    int(row["tries"]),
                )
                for row in told[name]
            )

        return Quarantine(str(told["run"]), int(told["boots"]), rows("down"), rows("degraded"))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            "quarantine-invalid",
            "unexpected response from server: not a hands-on list",
            "upgrade the server or this command",
        ) from error


def quarantine_text(found: Quarantine, width: int, colour: bool) -> str:
    page = Page(width, colour)
    page.title(headline(found))
    for words, rows in (("Did not come up", found.down), ("Came up degraded", found.degraded)):
        if not rows:
            continue
        for hall, here in groupby(rows, key=lambda one: one.hall):
            page.line()
            page.line(f"{words}, {hall}" if hall else words, "bold")
            page.table(
                ("rack", "unit", "server", "serial", "what is wrong, what to do"),
                [
                    (
                        (o.rack.removeprefix(f"{hall}/") if hall else o.rack) or "-",
                        o.position or "-",
                        o.server,
                        o.serial or "-",
                        f"{o.reason}: {o.remedy} [{o.code}]",
                    )
                    for o in here
                ],
            )
    page.line()
    page.line(f"to print: evac run quarantine {found.run} --output html --to floor.html", "dim")
    page.line(
        f"next: evac run retry {found.run} boot:SERVER --reason WHY, or --rack RACK for the whole rack", "dim"
    )
    return page.text()


def headline(found: Quarantine) -> str:
    up = found.boots - len(found.down)
    words = f"{found.run}: {plural(len(found.down), 'server')} of {number(found.boots)} not up"
    if found.degraded:
        words += f"; {number(len(found.degraded))} of {number(up)} came up degraded"
    return words


def quarantine_page(found: Quarantine, when: str) -> str:
    """One self-contained page. when: the time printed on it. Same input, same bytes."""
    parts = [
        ("Did not come up", "down", _by_hall(found.down)),
        ("Came up degraded", "degraded", _by_hall(found.degraded)),
    ]
    return rendered("quarantine.html.j2", run=found.run, headline=headline(found), when=when, parts=parts)


def _by_hall(rows: tuple[Left, ...]) -> list[tuple[str, list[Left]]]:
    halls: dict[str, list[Left]] = {}
    for one in rows:
        halls.setdefault(one.hall, []).append(one)
    return list(halls.items())
