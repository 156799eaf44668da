"""The log of access and approvals for other systems: JSON lines, and CEF (ArcSight Common Event Format 0);
and who may do what, for the people who certify it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Final, Protocol

import orjson

from evac import __version__
from evac.model.access import AccessRecord
from evac.views.words import moment

_SEVERITY: Final[Mapping[str, int]] = MappingProxyType(
    {"sign-in-refused": 5, "refused": 6, "break-glass": 9, "clock-jump": 7, "logins-ended": 4, "approved": 5}
)
_PLAIN: Final = 3


def json_line(one: AccessRecord) -> str:
    """One record on one line; `at` is UTC."""
    return orjson.dumps({"at": moment(one.at_ms), **asdict(one)}).decode() + "\n"


def cef_line(one: AccessRecord) -> str:
    """One record as CEF: `rt` in milliseconds, who as `suser`, how the person was proven as `cs1`."""
    severity = _SEVERITY.get(one.kind, _PLAIN)
    head = "|".join(
        _head(text) for text in ("evac", "evac", __version__, one.kind, one.kind.replace("-", " "))
    )
    facts = {
        "rt": str(one.at_ms),
        "suser": one.who,
        "src": one.address,
        "externalId": one.request,
        "cs1Label": "proof" if one.proof else "",
        "cs1": one.proof,
        "cs2Label": "run" if one.run else "",
        "cs2": one.run,
        "cs3Label": "site" if one.site else "",
        "cs3": one.site,
        "reason": one.code,
        "cnt": str(one.count),
        "msg": one.what,
    }
    told = " ".join(f"{key}={_value(value)}" for key, value in facts.items() if value)
    return f"CEF:0|{head}|{severity}|{told}\n"


def _head(text: str) -> str:
    return _line(text).replace("\\", "\\\\").replace("|", "\\|")


def _value(text: str) -> str:
    return _line(text).replace("\\", "\\\\").replace("=", "\\=")


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


class May(Protocol):
    """A row of who may do what; see `evac.app.access.MayDo`."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def may(self) -> str: ...
    @property
    def proof(self) -> str: ...
    @property
    def until_ms(self) -> int: ...


def _may_rows(rows: Sequence[May]) -> list[dict[str, str]]:
    return [
        {
            "kind": one.kind,
            "name": one.name,
            "role": one.role,
            "may": one.may,
            "proof": one.proof,
            "until": moment(one.until_ms) or "" if one.until_ms else "",
        }
        for one in rows
    ]


def may_text(rows: Sequence[May]) -> str:
    lines = []
    for row in _may_rows(rows):
        role = f" ({row['role']})" if row["role"] else ""
        until = f", until {row['until']}" if row["until"] else ""
        lines.append(_line(f"{row['kind']} {row['name']}{role}: {row['may']}; by {row['proof']}{until}"))
    return "\n".join(lines) + "\n"


def may_json(rows: Sequence[May]) -> str:
    told = {"schema_version": 1, "rows": _may_rows(rows)}
    return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n"


FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def may_csv(rows: Sequence[May]) -> str:
    """A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["kind", "name", "role", "may", "proof", "until"], lineterminator="\n")
    writer.writeheader()
    for row in _may_rows(rows):
        writer.writerow({key: f"'{one}" if one.startswith(FORMULA) else one for key, one in row.items()})
    return text.getvalue()
