"""Writes the reference pages on files that people write, from the tables that their readers work from.

`python scripts/reference_pages.py docs/reference` writes them; a test compares the pages in docs/ with this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from evac.estate.codecs.access import FIELDS as ACCESS_FIELDS
from evac.estate.codecs.access import PERSON_FIELDS, TOKEN_FIELDS
from evac.estate.codecs.notices import CHANNEL_FIELDS
from evac.estate.codecs.notices import FIELDS as NOTICES_FIELDS
from evac.estate.codecs.policy import FIELDS as POLICY_FIELDS
from evac.estate.codecs.policy import STORE_FIELDS
from evac.estate.format import document
from evac.estate.format import quantities as q
from evac.estate.format.kinds import Field, Listed, Mapped, Record, Records, Scalar
from evac.estate.format.problems import CODES
from evac.estate.format.quantities import Quantity
from evac.estate.format.reading import TABLE_COLUMNS
from evac.estate.format.spec import FACT, HEAD, SECTIONS
from evac.model.run_policy import PROFILES
from evac.model.steps import TOOL_ROLES


def key_table(fields: Iterable[Field], absent: Callable[[Field], str]) -> list[str]:
    """Lines of Markdown. absent: what holds where a key is left out."""
    rows = ["| key | value | meaning | if left out |", "|---|---|---|---|"]
    return [*rows, *(f"| `{f.key}` | {f.kind.words} | {f.doc} | {absent(f)} |" for f in fields)]


def shown_default(spec: Field) -> str:
    """The default of a plain value, or of a list of them, as a file would say it."""
    kind: Any = spec.kind
    if isinstance(kind, Listed):
        return ", ".join(f"`{kind.item.show(item)}`" for item in spec.default)
    assert isinstance(kind, Scalar)
    return f"`{kind.show(spec.default)}`"


_OPENING: Final = """\
# Estate files

This page is made from the tables that the program reads by; it is written by
`python scripts/reference_pages.py docs/reference`. `evac schema` prints the JSON Schema of the YAML
files; [Diagnostics](diagnostics.md) lists what `evac check` may say.

An estate is a folder, or one YAML file. Of a folder, every `*.yaml` and `*.yml` file that is not hidden is
read, in the order of their names, and added up: sections from several files become one. The same id in two
files is an error that names both places. The tables `servers`, `racks` and `replicas` can be
in the same folder, each as `.csv` or `.parquet`. A file `overlay.yaml` is merged last and wins: see
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

An editor that knows JSON Schema completes keys once the schema is in the same folder: `evac schema >
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

The first line of a CSV file names the columns, in any order. Cells are separated by commas and hold plain
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
    lines += [
        "or to a list of names; all of them are needed. Where one of several is enough, write",
        "`{any_of: [NAME, OTHER]}` in place of a name, the preferred one first. The roles are",
        f"{roles}.",
        "",
    ]
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
    from evac.estate.tables import reading as tables

    return f"""\
## Bounds

| what | at most |
|---|---|
| bytes of a YAML file | {document.YAML_BYTES_MAX:,} |
| bytes of a table | {document.TABLE_BYTES_MAX:,} |
| bytes of a line | {document.LINE_BYTES_MAX:,} |
| YAML files | {document.FILES_MAX:,} |
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
        "stops every other command; warnings and notes do not. This page is made from the",
        "program's own table.",
        "",
    ]
    for area in dict.fromkeys(code.area for code in CODES.values()):
        lines += [f"## {area}", "", "| code | severity | meaning |", "|---|---|---|"]
        found = ((name, code) for name, code in sorted(CODES.items()) if code.area == area)
        lines += [f"| `{name}` | {code.severity} | {code.meaning} |" for name, code in found]
        lines.append("")
    return "\n".join(lines)


_ACCESS_OPENING: Final = """\
# Access files

Who may do what in the war room. One YAML file, `access.yaml` in the folder of the estate; `--access FILE`
names another. Without one the war room listens on loopback only, and anyone who can reach it is admin. The
war room reloads the file when it changes; it ignores an invalid file, the log says why, and the last valid
version stays in use. `evac access check FILE` lists every problem with file, line and column, and
`evac schema access` prints the JSON Schema. This page is generated from the program's own
table. How to set it up: [Control access](../how-to/access.md).

```yaml
address: https://war.example.com:8400
people:
  kim: {role: approver, password: "file:/etc/evac/kim", subject: "248289761001"}
  lee: {role: admin, key: 3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=, subject: ""}
tokens:
  grafana: {role: viewer, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
tls: {cert: /etc/evac/room.pem, key: /etc/evac/room.key}
oidc:
  issuer: https://id.example.com
  client: evac
  client_secret: env:EVAC_OIDC
  roles: {sre: operator, leads: approver}
```

It holds no secrets. Passwords and the client secret are references: `env:NAME`, `file:/path` (refused
where others may read it), or `command:/path ARGUMENTS`, a program without a shell whose first line of output
counts. Tokens are kept as hashes.

## Roles

| role | may |
|---|---|
| `viewer` | read all pages and all of the API |
| `operator` | also pause, resume, retry, skip, cancel, undo, attest, change limits; hold; write notes |
| `approver` | also approve |
| `admin` | everything |

A route that does not say which role it needs is refused to everybody.

## One person, one name

A run counts approvals by name, so nobody may have two. Names that look the same are one name: other case,
spaces or invisible characters, letters of another alphabet. Whatever acts for a person (password, token
with `of`, key, the identity provider) acts under the name that the person has here. With `oidc` every entry
therefore says who it is there: `subject`. Somebody whom the identity provider names like an entry without
being that person is not let in. A token without `of` is a program: it neither approves nor attests.

"""


def access_page() -> str:
    """Keys of access files."""
    lines = [_ACCESS_OPENING + "## Keys", "", *key_table(ACCESS_FIELDS, _absent_in_access), ""]
    for title, fields, words in (
        ("people", PERSON_FIELDS, "A mapping of names; of each person:"),
        ("tokens", TOKEN_FIELDS, "A mapping of names; of each token:"),
    ):
        lines += [f"### `{title}`", "", words, "", *key_table(fields, _absent_in_access), ""]
    for spec in ACCESS_FIELDS:
        if isinstance(spec.kind, Record):
            lines += [f"### `{spec.key}`", "", *key_table(spec.kind.fields, _absent_in_access), ""]
    return "\n".join(lines).rstrip() + "\n"


def _absent_in_access(spec: Field) -> str:
    if spec.required:
        return "an error"
    if spec.key == "subject":
        return "an error with `oidc`"
    if isinstance(spec.kind, Record):
        return "none" if spec.default is None else "as below"
    if isinstance(spec.kind, Mapped) or spec.default in ((), "", 0):
        return "never" if spec.key == "ends" else "none"
    return shown_default(spec)


_NOTICES_OPENING: Final = """\
# Notices files

Who is notified of what, over which channel. One YAML file, `notices.yaml` in the folder of the estate;
`evac serve --notices FILE` names another. `evac notices check FILE` lists every problem with file, line and
column, `evac notices test FILE` sends one message over each channel, and `evac schema notices` prints the
JSON Schema. This page is generated from the program's own table. How to set it up:
[Set up alerts](../how-to/notices.md).

```yaml
room: https://war.example.com:8400
channels:
  on-call: {apprise: env:EVAC_ON_CALL, least: error}
  desk: {apprise: "file:/etc/evac/desk.url"}
  tickets: {webhook: "file:/etc/evac/tickets.url", secret: "file:/etc/evac/tickets.key",
    kinds: [finding, plan, lag], least: info}
```

It contains no secrets and no addresses, because anyone who has the address of a chat can write there. Use
references: `env:NAME`, `file:/path` (rejected if other users can read it), or `command:/path ARGUMENTS`, a
program without a shell whose first line of output counts.

## Kinds

| kind | sent when | severity |
|---|---|---|
| `site` | a site is suspect for 30 s; lost; what is done about it | warning; critical |
| `run` | it waits for a person; it ended; it cannot be read | critical; info, error if it failed; error |
| `break-glass` | someone used a credential that was signed offline | critical |
| `trouble` | evac could not do something, or was refused | error |
| `tool` | a recovery tool has come to run at one site only; at none | error; critical |
| `lag` | a copy is behind its primary by more than its `rpo` for 10 s | error |
| `plan` | a plan costs 20 % more outage than the best there was; is old; there is none | warning; error |
| `finding` | the audit has an error that was not there before | error |
| `status-page` | the public status page is not written for 2 min | warning |
| `update` | someone published an update for users | - |

A concern is sent when it begins, when it becomes more severe, and when it has ended: gone for half a
minute. More than three of one kind at once are one message. Errors and single-site tools that were there
when evac first looked are sent to no one: `evac audit` lists them.

`update` is for people outside, such as a mailing list of your customers or a chat of theirs. It goes as it
was published, title and text, each one by itself, with the address of the status page; `least` does not
count. A channel gets it only if it names this kind, and then names no other: nobody outside hears what is
for you alone. A form of the war room publishes, and `evac incident note INCIDENT TEXT --kind update` does.

"""


def notices_page() -> str:
    """Keys of notices files."""
    lines = [_NOTICES_OPENING + "## Keys", "", *key_table(NOTICES_FIELDS, _absent_in_notices), ""]
    lines += ["### `channels`", "", "A mapping of names; of each channel:", ""]
    return "\n".join([*lines, *key_table(CHANNEL_FIELDS, _absent_in_notices)]).rstrip() + "\n"


def _absent_in_notices(spec: Field) -> str:
    if spec.key == "secret":
        return "an error with `webhook`"
    if spec.key in ("apprise", "webhook"):
        return "the other one must be there"
    absent = {"kinds": "all but `update`", "room": "no links", "page": "no link"}
    return absent.get(spec.key) or shown_default(spec)


_POLICY_OPENING: Final = """\
# Policy files

What evac may do by itself, whom it asks, how it makes sure that an old primary cannot write, and how fast it
believes that a site is gone. One YAML file, `policy.yaml` in the folder of the estate; `--policy FILE` names
another. An empty file is the careful policy: evac advises, and people decide. This page is made from the
program's own table.

```yaml
mode: hold
approvals: 2
approvers:
  kim: 3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=
  lee: vu/erb7v3q2+796tvu/erb7v3q2+796tvu/erb7v3q0=
watch: {profile: cautious}
stores:
  messages: {fence_proofs: [sync, network, attest], on_sync_loss: next}
pace: {shares: [10 %, 50 %, 100 %], wait: 30 s}
windows:
  - {from: "2026-12-01T01:00:00Z", to: "2026-12-01T05:00:00Z", sites: [anyang], reason: network works}
```

`hold` and `act` are refused unless the store of runs survives the loss of every single site: etcd with
members in three sites, never SQLite.

## Proofs of a fence

A store is promoted only after its old primary provably cannot acknowledge another write. Policy says which
proofs are good enough for which store; the journal names the one that was used.

| proof | what is proved |
|---|---|
| `lease` | the lease of the members ended, and they fence themselves; needs `self_fence: true` |
| `sync` | the synchronous replica takes over: without it the old primary acknowledges no write |
| `network` | devices outside the site closed the path to it |
| `power` | it has no power, and that was seen |
| `attest` | a person attests it, by name |
| `none` | nothing: policy does not mind two primaries of this store, such as a cache that is learned again |

"""


def policy_page() -> str:
    """Keys of policy files, and the watch profiles."""
    lines = [_POLICY_OPENING + "## Keys", "", *key_table(POLICY_FIELDS, _absent_in_policy), ""]
    for spec in POLICY_FIELDS:
        record = spec.kind.item if isinstance(spec.kind, Records) else spec.kind
        if isinstance(record, Record):
            lines += [f"### `{spec.key}`", "", *key_table(record.fields, _absent_in_policy), ""]
    lines += [
        "### `stores`",
        "",
        "A mapping of ids of stores; of each:",
        "",
        *key_table(STORE_FIELDS, _absent_in_policy),
        "",
    ]
    lines += ["## Watch profiles", "", "| profile | period | misses | suspect | confirm | clear |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in ("cautious", "fast", "lab"):
        p = PROFILES[name]
        times = (f"{ms / 1000:g} s" for ms in (p.suspect_ms, p.confirm_ms, p.clear_ms))
        lines.append(f"| `{name}` | {p.period_ms / 1000:g} s | {p.misses} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def _absent_in_policy(spec: Field) -> str:
    if spec.required:
        return "an error"
    if spec.default is None:
        return "as the profile says"
    if isinstance(spec.kind, Record):
        return "as below"
    if isinstance(spec.kind, Mapped) or spec.default in ((), ""):
        return "none"
    return shown_default(spec)


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
