"""Writes an Estate to the files of the format, and their JSON Schema; both come from the table of the format.

Output is what `reading` reads: sorted, deterministic, in readable units, never rounded. It is written to a
temporary folder next to the target and then renamed. Files that do not belong to the estate (an overlay,
notes) are kept when a folder is replaced.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evac.estate.format import kinds
from evac.estate.format.document import TABLES
from evac.estate.format.spec import FACT, FORMAT_VERSION, HEAD, SECTIONS, TOOLS, Section, hall_of
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Dependency, Estate, Fact, Rack, Store
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER

SCHEMA_ID = "urn:evac:estate:1"


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one YAML file of an estate."""
    properties: dict[str, Any] = {
        "evac": {
            "description": "version of the format",
            "enum": [one for version in range(1, FORMAT_VERSION + 1) for one in (version, str(version))],
        }
    }
    for spec in HEAD:
        properties[spec.key] = {"description": spec.doc, **kinds.with_fact(spec.kind)}
    for section in SECTIONS:
        properties[section.key] = {"description": section.doc, **_or_empty(_section(section))}
    properties["tools"] = {
        "description": "services that recovery depends on, by role",
        **_or_empty(TOOLS.schema()),
    }
    properties["facts"] = {
        "description": "where values come from, by path, such as services/pay/rto",
        **_or_empty({"type": "object", "additionalProperties": kinds.record_schema(FACT.fields)}),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "evac estate",
        "description": "What a company runs, where it runs, and what depends on what.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"fact": _fact()},
    }


def _or_empty(inner: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [inner, {"type": "null"}]}


def _section(section: Section) -> dict[str, Any]:
    entry = kinds.record_schema(section.fields)
    if section.style == "mapping":
        return entry
    if section.style == "list":
        return {"type": "array", "items": entry}
    keys = {"maxLength": kinds.ID_MAX, "pattern": "/" if section.path_id else "^[^/]"}
    empty = {"anyOf": [entry, {"type": "null"}]} if "required" not in entry else entry
    return {"type": "object", "propertyNames": keys, "additionalProperties": empty}


def _fact() -> dict[str, Any]:
    """A value with its provenance next to it; its position determines which values are valid."""
    described = {f.key: {"description": f.doc, **f.kind.schema()} for f in FACT.fields}
    return {
        "type": "object",
        "properties": {"value": {}, **described},
        "additionalProperties": False,
        "required": ["value"],
    }


Tree = str | list["Tree"] | dict[str, "Tree"]
"""Text ready to be written, a list, or a mapping of these."""

WIDTH: Final = 110
_PLAIN: Final = re.compile(r"[^\W_][\w./@+()-]*(?: [\w./@+()%-]+)*")
_AMBIGUOUS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "unknown", "y", "n"})
_NUMBERLIKE: Final = re.compile(r"[0-9][0-9a-fA-FxXoO_.+-]*")
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def quoted(text: str) -> str:
    """The text, quoted if any YAML reader might take it for something else."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _AMBIGUOUS and not _NUMBERLIKE.fullmatch(text)
    return text if plain else '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65_536 else f"\\U{code:08x}"


def _flow(tree: Tree) -> str:
    if isinstance(tree, str):
        return tree
    if isinstance(tree, list):
        return "[" + ", ".join(_flow(item) for item in tree) + "]"
    return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in tree.items()) + "}"


def lines_of(key: str, tree: Tree, indent: int, spread: int = 0) -> list[str]:
    """`key: tree` as lines: on one line if it fits, else split.

    `spread`: levels of mappings that are split even if they fit.
    """
    pad = " " * indent
    flow = f"{pad}{key}: {_flow(tree)}"
    broken = spread > 0 and isinstance(tree, dict) and tree
    if isinstance(tree, str) or not tree or (not broken and len(flow) <= WIDTH):
        return [flow]
    found = [f"{pad}{key}:"]
    if isinstance(tree, dict):
        for inner, value in tree.items():
            found += lines_of(inner, value, indent + 2, spread - 1)
        return found
    for item in tree:
        found += _item_lines(item, indent + 2)
    return found


def _item_lines(item: Tree, indent: int) -> list[str]:
    pad = " " * indent
    flow = f"{pad}- {_flow(item)}"
    if not isinstance(item, dict) or not item or len(flow) <= WIDTH:
        return [flow]
    found: list[str] = []
    for key, value in item.items():
        found += lines_of(key, value, indent + 2)
    return [f"{pad}- {found[0].lstrip()}", *found[1:]]


class Teller:
    """Turns model values into trees. `facts`: provenance by path, which forces `unknown` into words."""

    def __init__(self, estate: Estate, facts: Mapping[str, Fact], counts_in_yaml: bool) -> None:
        self._estate = estate
        self._facts = facts
        self._placed = placed_by_service(estate) if counts_in_yaml else {}
        self._in_table = set() if counts_in_yaml else set(estate.replicas.service.tolist())
        self._rows = {service.id: row for row, service in enumerate(estate.services)}
        self._intervals = {interval.path: interval for interval in estate.intervals}

    def head(self) -> dict[str, Tree]:
        """Every top-level key with a single value."""
        return self._fields(HEAD, self._estate, "", "")

    def section(self, section: Section) -> Tree:
        """One top-level key; empty if the estate has none."""
        value = getattr(self._estate, section.attr)
        if section.style == "mapping":
            return self._fields(section.fields, value, f"{section.key}/", "")
        if section.style == "list":
            return [
                self._fields(section.fields, entry, f"{section.key}/{row}/", "")
                for row, entry in enumerate(value)
            ]
        return {
            quoted(entry.id): self._fields(section.fields, entry, f"{section.key}/{entry.id}/", entry.id)
            for entry in value
        }

    def tools(self) -> Tree:
        return self._value(TOOLS, self._estate.tools, "tools") if self._estate.tools else {}

    def facts(self) -> dict[str, Tree]:
        return {
            quoted(path): self._fields(FACT.fields, self._facts[path], f"facts/{path}/", "")
            for path in sorted(self._facts)
        }

    def _fields(
        self, fields: tuple[kinds.Field, ...], thing: Any, prefix: str, entry: str
    ) -> dict[str, Tree]:
        found: dict[str, Tree] = {}
        for spec in fields:
            tree = self._field(spec, thing, prefix + spec.key, entry)
            if tree is not None:
                found[spec.key] = tree
        return found

    def _field(self, spec: kinds.Field, thing: Any, path: str, entry: str) -> Tree | None:
        value = spec.of(thing)
        if isinstance(spec.kind, kinds.Placed):
            return self._replicas(spec.kind, value, path, entry)
        if isinstance(thing, Rack) and spec.key == "hall" and value != hall_of(entry):
            return "unknown" if value is None else quoted(value)
        if value is None:
            return "unknown" if path in self._facts else None
        if path in self._intervals:
            return self._value(spec.kind, value, path)
        if not spec.required and (
            value == spec.default or (isinstance(thing, Store) and spec.key == "family" and value == thing.id)
        ):
            return None
        tree = self._value(spec.kind, value, path)
        if isinstance(value, BackupPolicy) and not tree:
            return {}
        return (
            tree if tree or spec.required or not isinstance(spec.kind, kinds.Record | kinds.Mapped) else None
        )

    def _value(self, kind: Any, value: Any, path: str) -> Tree:
        if isinstance(kind, kinds.Scalar):
            interval = self._intervals.get(path)
            if interval is not None and interval.worse == value:
                ends = (interval.worse, interval.better)
                return [kind.show(end) for end in (ends if kind.worse == "low" else ends[::-1])]
            return quoted(kind.show(value)) if kind.quoted else kind.show(value)
        if isinstance(kind, kinds.Listed):
            if isinstance(value, bool | int):
                return str(value).lower()
            if isinstance(value, str):
                value = (value,)
            shown = [self._value(kind.item, item, path) for item in value]
            return shown[0] if kind.one_allowed and len(shown) == 1 else shown
        if isinstance(kind, kinds.Choices):
            groups: list[Tree] = [
                self._value(kind.item, one, path)
                if isinstance(one, str)
                else {"any_of": [self._value(kind.item, name, path) for name in one]}
                for one in value
            ]
            return groups
        if isinstance(kind, kinds.Record):
            return self._fields(kind.fields, value, f"{path}/", "")
        if isinstance(kind, kinds.Records):
            return [self._one_of(kind.item, item, f"{path}/{row}") for row, item in enumerate(value)]
        return {
            quoted(kind.key.show(k)): self._value(kind.value, v, f"{path}/{k}")
            for k, v in sorted(value.items())
        }

    def _one_of(self, record: kinds.Record, item: Any, path: str) -> Tree:
        if not isinstance(item, Dependency):
            return self._fields(record.fields, item, f"{path}/", "")
        found: dict[str, Tree] = {item.kind: quoted(item.target)}
        if item.any_of:
            found = {"any_of": [quoted(name) for name in item.any_of]}
        if not item.hard:
            found["hard"] = "false"
        if item.needed_to != "serve":
            found["needed_to"] = item.needed_to
        return found["service"] if len(found) == 1 and "service" in found else found

    def _replicas(self, kind: kinds.Placed, nominal: int | None, path: str, service: str) -> Tree | None:
        counts = self._placed.get(self._rows[service])
        if counts:
            return {quoted(target): kind.count.show(count) for target, count in counts}
        if nominal is None:
            said = self._rows[service] in self._in_table or path in self._facts
            return "unknown" if said else None
        return kind.count.show(nominal)


def placed_by_service(estate: Estate) -> dict[int, list[tuple[str, int]]]:
    """Service -> (site or pool, count), in the order of the columns."""
    targets = {AT_SITE: estate.sites, ON_POOL: estate.pools}
    found: dict[int, list[tuple[str, int]]] = {}
    replicas = estate.replicas
    columns = (replicas.service, replicas.kind, replicas.target, replicas.count)
    for service, kind, target, count in zip(*(column.tolist() for column in columns), strict=True):
        found.setdefault(service, []).append((targets[kind][target].id, count))
    return found


def document(teller: Teller, keys: tuple[str, ...], heading: tuple[str, ...], head: bool) -> str:
    """The text of one file: `heading` as comments, the version, then the requested sections."""
    lines = [f"# {line}".rstrip() for line in heading] + [f"evac: {FORMAT_VERSION}"]
    if head:
        for key, tree in teller.head().items():
            lines += lines_of(key, tree, 0)
    for section in SECTIONS:
        if section.key in keys:
            tree = teller.section(section)
            spread = {"ids": 2 if section.lines else 1}.get(section.style, 0)
            lines += _block(section.key, tree, spread)
    for key, tree in (("tools", teller.tools()), ("facts", teller.facts())):
        if key in keys:
            lines += _block(key, tree, 1)
    return "\n".join(lines) + "\n"


def _block(key: str, tree: Tree, spread: int) -> list[str]:
    if not tree:
        return []
    if isinstance(tree, list):
        return [f"{key}:", *(line for item in tree for line in _item_lines(item, 2))]
    return lines_of(key, tree, 0, spread)


if TYPE_CHECKING:
    from evac.estate.tables.all import TableFormat

SCHEMA_FILE: Final = "estate.schema.json"
_SCHEMA_LINE: Final = f"yaml-language-server: $schema={SCHEMA_FILE}"
_RACKS_IN_YAML: Final = 40
_ENTRIES_IN_ONE_FILE: Final = 60
_OWN_FILES: Final = frozenset(
    {"estate.yaml", "services.yaml", "stores.yaml", "facts.yaml", SCHEMA_FILE}
    | {f"{table}.{ending}" for table in TABLES for ending in ("csv", "parquet")}
)


def write(
    estate: Estate,
    folder: Path | str,
    *,
    tables: TableFormat = "csv",
    notes: Mapping[str, str] | None = None,
    heading: str = "",
    replace: bool = False,
) -> tuple[Path, ...]:
    """Write the files of an estate; returns their paths. What `load` reads back has the same digest.

    `notes`: fact path -> source, written as facts; `heading`: comment at the top of estate.yaml.
    A folder that is not empty is refused unless `replace`, which replaces the estate's own files
    and leaves all others. Raises EvacError folder-not-empty, InvalidInput, OSError.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or (not replace and any(target.iterdir()))):
        raise EvacError(
            "folder-not-empty", f"{target} exists and is not empty", "choose another folder, or use --replace"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        names = _write_all(estate, fresh, tables, notes or {}, heading)
        fresh.chmod(0o755)
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return tuple(target / name for name in names)


def _write_all(
    estate: Estate, folder: Path, tables: TableFormat, notes: Mapping[str, str], heading: str
) -> tuple[str, ...]:
    facts = {fact.path: fact for fact in estate.facts}
    for path, source in notes.items():
        facts.setdefault(path, Fact(path, source))
    in_yaml = _counts_fit_yaml(estate)
    for name, text in _documents(estate, Teller(estate, facts, in_yaml), heading).items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    text = json.dumps(schema(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    (folder / SCHEMA_FILE).write_text(text, encoding="utf-8", newline="\n")
    _write_tables(estate, folder, tables, in_yaml)
    return tuple(sorted(path.name for path in folder.iterdir()))


def _write_tables(estate: Estate, folder: Path, kind: TableFormat, counts_in_yaml: bool) -> None:
    """The tables that the estate needs; a small one needs none, so the table library is not loaded."""
    with_racks = len(estate.racks) > _RACKS_IN_YAML
    if not (with_racks or len(estate.fleet) or not counts_in_yaml):
        return
    from evac.estate.tables import all

    if with_racks:
        all.write_table(all.racks_frame(estate.racks), folder / "racks", kind)
    if len(estate.fleet):
        all.write_table(all.servers_frame(estate), folder / "servers", kind)
    if not counts_in_yaml:
        all.write_table(all.replicas_frame(estate), folder / "replicas", kind)


def _counts_fit_yaml(estate: Estate) -> bool:
    """Whether counts by site and pool are complete and add up to each service's count."""
    if (estate.replicas.kind == ON_SERVER).any():
        return False
    placed = placed_by_service(estate)
    return all(estate.services[row].replicas == sum(c for _, c in counts) for row, counts in placed.items())


def _documents(estate: Estate, teller: Teller, heading: str) -> dict[str, str]:
    """File name -> text: one file for a small estate, several for a large one."""
    keys = {section.key for section in SECTIONS} | {"tools", "facts"}
    if len(estate.racks) > _RACKS_IN_YAML:
        keys.discard("racks")
    comment = (_SCHEMA_LINE, *heading.splitlines())
    if len(estate.services) + len(estate.stores) <= _ENTRIES_IN_ONE_FILE:
        return {"estate.yaml": document(teller, tuple(keys), comment, True)}
    apart = {
        "services.yaml": {"services"},
        "stores.yaml": {"stores", "data_sets", "recovery_groups"},
        "facts.yaml": {"facts"},
    }
    found = {"estate.yaml": document(teller, tuple(keys - set().union(*apart.values())), comment, True)}
    for name, wanted in apart.items():
        if name != "facts.yaml" or teller.facts():
            found[name] = document(teller, tuple(wanted), (_SCHEMA_LINE,), False)
    return found


def _swap(fresh: Path, target: Path) -> None:
    """Renames `fresh` to `target`, keeping files that do not belong to the estate."""
    if not target.exists() or not any(target.iterdir()):
        fresh.replace(target)
        return
    for entry in target.iterdir():
        if entry.name in _OWN_FILES:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, fresh / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, fresh / entry.name, follow_symlinks=False)
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.replace(old)
    try:
        fresh.replace(target)
    except OSError as error:
        old.replace(target)
        raise InvalidInput("folder-not-written", f"{target} cannot be replaced: {error.strerror}") from error
    shutil.rmtree(old)
