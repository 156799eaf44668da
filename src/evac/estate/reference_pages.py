"""The reference pages on estate files, made from the tables that reader and writer work from.

`python -m evac.estate.reference_pages FOLDER` writes them; a test holds that the pages in docs/
are what this module makes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from evac.estate.access_page import access_page
from evac.estate.format import quantities as q
from evac.estate.format import sources
from evac.estate.format.codes import CODES
from evac.estate.format.kinds import Field, Record, Records
from evac.estate.format.provenance import TABLE_COLUMNS
from evac.estate.format.quantities import Quantity
from evac.estate.format.spec import FACT, HEAD, SECTIONS
from evac.estate.key_tables import key_table
from evac.estate.notices_page import notices_page
from evac.estate.policy_page import policy_page
from evac.model.steps import TOOL_ROLES

_OPENING: Final = """\
# Estate files

This page is made from the tables that the program reads by; it is written by
`python -m evac.estate.reference_pages docs/reference`. `evac schema` prints the JSON Schema of the YAML
files; [Diagnostics](diagnostics.md) lists what `evac check` may say.

An estate is a folder, or one YAML file. Of a folder, every `*.yaml` and `*.yml` file that is not hidden is
read, in the order of their names, and added up: sections from several files become one. The same id in two
files is an error that names both places. Beside them may stand the tables `servers`, `racks` and
`replicas`, each as `.csv` or `.parquet`. A file `overlay.yaml` is merged last and wins: see
[Importing](../how-to/import.md).

```yaml
# yaml-language-server: $schema=estate.schema.json
evac: 1
sites:
  east: {}
  west: {}
services:
  login: {tier: 0, people: 1 M, rto: 10 min, replicas: {east: 2}, needs: [{store: users}]}
  shop: {tier: 1, people: 1 M, rto: 1 h, replicas: {east: 4, west: 4}, share: 50 %, needs: [login]}
stores:
  users:
    engine: postgresql
    members: [{at: east, mode: primary}, {at: west, mode: async, lag: 5 s}]
    rpo: 0 s
tools: {identity: login}
```

An editor that knows JSON Schema completes keys once the schema lies beside the file: `evac schema >
estate.schema.json`.

## Rules that hold everywhere

- **Ids** are the keys of a section. They begin with a letter or digit and hold letters, digits and `. _ - :
  @`; a path such as `pangyo/hall-1/r001` has its parts divided by `/`. Halls, feeds and racks begin with
  the id of their site. Sites, groups, halls, feeds, racks and servers share one space of names; so do
  sites, pools and servers.
- **Values** are read by what the key wants, never guessed from their looks: a site called `no` stays `no`.
  Quotes change nothing but one thing: `unknown` and `~` without quotes say that a value is not known.
- **Unknown** is not zero. A key left out is unknown, or takes the default that the tables below name.
- **Quantities** carry a unit: `90 s`, `4 GiB`, `350 W`. Only counts and people need none. Numbers are
  decimal, without exponent; a fraction of a base unit is rounded once, durations and demands up, capacities
  down.
- **Intervals**: where a table below says so, `[60 s, 150 s]` says that the truth lies between the two, both
  included. The plan and the audit take the worse end (the high one of durations, demands and people, the low
  one of room, limits and rates), the bound takes the better one, so that it is true whatever the truth is:
  see [the proof](../explanation/proof.md). Both ends of a rate count in the same window. What is decided
  rather than measured (`rto`, `rpo`, `share`, counts of replicas) has no interval, nor have cells of tables;
  servers whose cells are empty, or say the worse end of their class, follow the interval of the class.
- **Dates** are written `2026-11-25`.
- Anchors, aliases and `<<` work; tags do not.

## Units

| quantity | units | counted in | rounded |
|---|---|---|---|
"""

_FACTS: Final = """\
## Facts: where a value is from and how long it is good for

Any single value may be written with its provenance, or have it stated under `facts` by its path:

```yaml
services:
  pay:
    people: {value: 30 M, source: billing report, observed: 2026-10-01, good_for: 90 d}
    rto: 30 min
facts:
  services/pay/rto: {source: contract 7, observed: 2026-10-01, good_for: 52 w}
```

A value is past its shelf life when the day of the estate (`as_of`, or `--as-of`) is later than `observed`
plus
`good_for`. It is then unknown, and `evac check` says so. A path may also name an entry (`classes/web`) or a
part of one (`services/pay/traffic`): all that can be unknown in it goes with it. Without a day nothing
expires, and a note says so.

"""

_TABLES: Final = """\
## Tables

The first line of a CSV file names the columns, in any order. Cells are parted by commas and hold plain
whole numbers in base units. An empty cell is unknown, or taken from where the column says; `unknown` in a
cell says unknown outright.

### servers

| column | meaning |
|---|---|
| `server` | name of the server; must be there, once |
| `site` | a site; left out, that of the rack or of the pool |
| `rack` | a rack |
| `class` | a server class, which gives what the next columns leave empty |
| `state` | `serving` (also if empty), `spare`, `dark` or `condemned` |
| `pool` | the pool that schedules on it, if one does |
| `cpu_millicores` `memory_mib` `disk_gib` `accelerators` | what it has; empty: as its class |
| `watts` | power under load; empty: as its class |
| `boot_server` | the boot server it boots from |
| `bmc` | `yes` if it can be powered on from afar, `no`, or empty; an address says `yes` |
| `bmc_address` | name or address of its BMC, with `:port` where that is not the usual one; IPv6 in `[ ]` |
| `serial` | serial number of its chassis, as the BMC says it |
| `position` | where it hangs in its rack, such as `17` |

### racks

| column | meaning |
|---|---|
| `rack` | path of the rack: `SITE/HALL/RACK` |
| `hall` | its hall; empty: what the path says; `unknown` |
| `feeds` | its power feeds, joined by `+` |
| `power_budget_watts` | power it carries |

### replicas

| column | meaning |
|---|---|
| `service` | a service |
| `target` | a server, a pool or a site |
| `count` | replicas there |

Replicas of one service are placed in YAML or in the table, never in both. With the table, `replicas:` of a
service is a plain number or left out.

"""


def estate_format_page() -> str:
    """The page on keys, units and tables."""
    lines = [_OPENING + "\n".join(_unit_rows()), "", "## Top of the file", "", *key_table(HEAD, _absent), ""]
    for section in SECTIONS:
        lines += [f"## `{section.key}`", "", f"{section.doc} {_STYLE_WORDS[section.style]}", ""]
        lines += [*key_table(section.fields, _absent), ""]
        lines += _nested(section.fields)
    roles = ", ".join(f"`{role}`" for role in TOOL_ROLES)
    lines += [
        "## `tools`",
        "",
        "Services that recovery itself needs: a mapping from roles to the name of a service,",
    ]
    lines += ["or to a list of names, each of which is needed. The roles are", f"{roles}.", ""]
    columns = [f"`{table}/{column}`" for table, found in sorted(TABLE_COLUMNS.items()) for column in found]
    lines += [_FACTS + "\n".join(key_table(FACT.fields, _absent)), ""]
    lines += [f"Columns of tables have the paths {', '.join(columns)}; a table as a whole has its name.", ""]
    return "\n".join(lines) + "\n" + _TABLES + _bounds()


_STYLE_WORDS: Final = {"ids": "A mapping of ids.", "list": "A list.", "mapping": "One mapping."}

_QUANTITIES: Final[tuple[tuple[Quantity, str, str], ...]] = (
    (q.DURATION, "milliseconds", "up"),
    (q.CORES_HELD, "thousandths of a core", "held down, needed up"),
    (q.MEMORY_HELD, "MiB", "held down, needed up"),
    (q.DISK_HELD, "GiB", "held down, needed up"),
    (q.BANDWIDTH_HELD, "Mbit/s", "held down, needed up"),
    (q.POWER_HELD, "watts", "held down, needed up"),
    (q.COUNT, "ones", "up"),
    (q.DAYS, "days", "down"),
)


def _unit_rows() -> list[str]:
    rows = []
    for quantity, base, rounded in _QUANTITIES:
        units = " ".join(f"`{unit}`" for unit in quantity.units)
        note = ", or none" if quantity.bare else ""
        rows.append(f"| {quantity.name.removeprefix('a ')} | {units}{note} | {base} | {rounded} |")
    return [
        *rows,
        "| share | `60 %`, `3/5` | exact | quotas and odds down, to a thousandth |",
        "| rate | `600 per minute`, `50 per 10 s` | count and window | - |",
    ]


def _absent(spec: Field) -> str:
    if spec.required:
        return "an error"
    if spec.default is None or isinstance(spec.kind, Record):
        return "unknown"
    if spec.default in ((), ""):
        return "none"
    return _shown(spec)


def _shown(spec: Field) -> str:
    kind: Any = spec.kind
    if isinstance(spec.default, tuple):
        return "`[" + ", ".join(kind.item.show(item) for item in spec.default) + "]`"
    return f"`{kind.show(spec.default)}`"


def _nested(fields: tuple[Field, ...]) -> list[str]:
    lines: list[str] = []
    for spec in fields:
        record = spec.kind.item if isinstance(spec.kind, Records) else spec.kind
        if isinstance(record, Record):
            each = "each of " if isinstance(spec.kind, Records) else ""
            lines += [f"Keys of {each}`{spec.key}`:", "", *key_table(record.fields, _absent), ""]
    return lines


def _bounds() -> str:
    from evac.estate.format import document
    from evac.estate.tables import reading as tables

    return f"""\
## Bounds

| what | at most |
|---|---|
| bytes of a YAML file | {sources.YAML_BYTES_MAX:,} |
| bytes of a table | {sources.TABLE_BYTES_MAX:,} |
| bytes of a line | {sources.LINE_BYTES_MAX:,} |
| YAML files | {sources.FILES_MAX:,} |
| values in a YAML file, aliases expanded | {document.NODES_MAX:,} |
| aliases in a YAML file | {document.ALIASES_MAX:,} |
| levels of nesting | {document.DEPTH_MAX} |
| characters of a value | {document.SCALAR_MAX:,} |
| rows of a table | {tables.ROWS_MAX:,} |
| any quantity, in base units | 2^53 |
"""


def diagnostics_page() -> str:
    """The page on diagnostic codes, by area and severity."""
    lines = [
        "# Diagnostics of estate files",
        "",
        "What `evac check` may report. A code is stable: scripts and suppressions can rely on it. An error",
        "stands in the way of every other command; warnings and notes do not. This page is made from the",
        "program's own table.",
        "",
    ]
    for area in dict.fromkeys(code.area for code in CODES.values()):
        lines += [f"## {area}", "", "| code | severity | meaning |", "|---|---|---|"]
        found = ((name, code) for name, code in sorted(CODES.items()) if code.area == area)
        lines += [f"| `{name}` | {code.severity} | {code.meaning} |" for name, code in found]
        lines.append("")
    return "\n".join(lines)


PAGES: Final = {
    "estate-format.md": estate_format_page,
    "diagnostics.md": diagnostics_page,
    "policy-format.md": policy_page,
    "access-format.md": access_page,
    "notices-format.md": notices_page,
}
"""File name -> what makes it."""


def main(folder: Path) -> None:
    """Write every page into a folder."""
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
