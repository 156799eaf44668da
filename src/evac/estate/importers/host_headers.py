"""What the columns of a host list are called: one table, read by the importer and by its documentation.

Names are compared in lower case without blanks, dashes, dots and underscores. A unit may stand in
the name of a column (`memory_gb`, `RAM (GiB)`) or in each cell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from evac.estate.format.problems import shown

NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "host": ("host", "hostname", "fqdn", "name", "server", "servername", "machine", "node", "asset"),
        "site": ("site", "dc", "datacenter", "datacentre", "location", "region", "facility", "building"),
        "rack": ("rack", "rackname", "cabinet", "rackid"),
        "services": ("service", "services", "role", "roles", "app", "apps", "application", "applications"),
        "cpu": ("cpu", "cpus", "core", "cores", "vcpu", "vcpus", "cpucores", "cpucount", "numcpus"),
        "memory": ("memory", "mem", "ram", "memorysize"),
        "disk": ("disk", "disks", "storage", "disksize", "localdisk", "ssd", "hdd"),
        "accelerators": ("accelerators", "gpu", "gpus", "gpucount"),
        "class": ("class", "model", "sku", "hardware", "type", "servertype", "machinetype", "flavor"),
        "state": ("state", "status", "lifecycle", "lifecyclestate"),
        "watts": ("power", "watts", "wattage", "powerdraw", "maxpower"),
    }
)
"""Meaning of a column -> names it is known by, the surest first."""

STATE_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "serving": "serving active inuse inservice production prod live online up running on deployed",
        "spare": "spare standby idle available free reserve",
        "dark": "dark off offline poweredoff poweroff stopped cold coldspare instock stored",
        "condemned": "condemned retired decommissioned decommissioning decom broken failed faulty dead rma",
    }
)
"""State of a server -> words for it in a cell; any other word is reported and the state left out."""

STATES: Final[Mapping[str, str]] = MappingProxyType(
    {word: state for state, words in STATE_WORDS.items() for word in words.split()}
)

_UNITS: Final = MappingProxyType(
    {
        **{f"{letter}b".lower(): f"{letter}B" for letter in "kMGTP"},
        **{f"{letter}ib".lower(): f"{letter}iB" for letter in "KMGTP"},
        **{f"{letter}i".lower(): f"{letter}iB" for letter in "KMGTP"},
        "w": "W",
        "watt": "W",
        "watts": "W",
        "kw": "kW",
        "cores": "cores",
    }
)
_UNIT_ENDING: Final = re.compile(r"(.*?)[\s_.(\[/-]+(?:in\s+)?([A-Za-z]+)[)\]]?\s*", re.ASCII)
_FILLING: Final = re.compile(r"[\s_.()\[\]/-]+")
_MEASURED: Final = frozenset({"memory", "disk", "watts"})
_UNIT_IN_NAME: Final = MappingProxyType({"watts": "W", "wattage": "W"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is understood: its position, its meaning, and the unit its name states."""

    position: int
    meaning: str
    unit: str | None


def bare(name: str) -> str:
    """A name as it is compared."""
    return _FILLING.sub("", name).lower()


def unit_named(text: str) -> str | None:
    """The unit a word means, as estates write it."""
    return _UNITS.get(text.lower())


def understand(name: str) -> tuple[str, str | None] | None:
    """Meaning and unit of a column name; None where it means nothing here."""
    meaning = _meaning(bare(name))
    if meaning is not None:
        return meaning, _UNIT_IN_NAME.get(bare(name))
    match = _UNIT_ENDING.fullmatch(name)
    unit = unit_named(match[2]) if match is not None else None
    meaning = _meaning(bare(match[1])) if match is not None else None
    if meaning is None or unit is None:
        return None
    return (meaning, unit) if meaning in _MEASURED or (meaning == "cpu" and unit == "cores") else None


def _meaning(name: str) -> str | None:
    return next((meaning for meaning, names in NAMES.items() if name in names), None)


def match_columns(header: tuple[str, ...]) -> tuple[dict[str, Column], list[int]]:
    """Columns by meaning, and the positions of those that mean nothing here.

    Where two columns mean the same, the one with the surer name counts and the other is left.
    """
    found: dict[str, Column] = {}
    left: list[int] = []
    for position, name in enumerate(header):
        known = understand(name)
        if known is None:
            left.append(position)
            continue
        meaning, unit = known
        other = found.get(meaning)
        if other is None:
            found[meaning] = Column(position, meaning, unit)
        elif _rank(name, meaning) < _rank(header[other.position], meaning):
            left.append(other.position)
            found[meaning] = Column(position, meaning, unit)
        else:
            left.append(position)
    return found, left


def _rank(name: str, meaning: str) -> int:
    names = NAMES[meaning]
    return names.index(bare(name)) if bare(name) in names else 0


def left_words(header: tuple[str, ...], position: int) -> str:
    """Why a column was left: it means nothing here, or another says the same more surely."""
    known = understand(header[position])
    if known is None:
        return f"the column {shown(header[position])} means nothing to evac"
    return f"the column {shown(header[position])} also means {known[0]}; another one was read"
