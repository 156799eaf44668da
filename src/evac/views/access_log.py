"""The log of access and approvals for other systems: JSON lines, and CEF (ArcSight Common Event Format 0)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Final

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
