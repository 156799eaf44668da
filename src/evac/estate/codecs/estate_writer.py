"""An Estate to the files of the format: whole or not at all, the same bytes every time.

Everything is written into a folder beside the wanted one, which then takes its name. Files that
are not the estate's own (an overlay, notes) are carried over when a folder is replaced.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evac.estate.codecs.yaml import Teller, document, placed_by_service
from evac.estate.format.json_schema import schema
from evac.estate.format.sources import TABLES
from evac.estate.format.spec import SECTIONS
from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Estate, Fact
from evac.model.fleet import ON_SERVER

if TYPE_CHECKING:
    from evac.estate.tables.writing import TableFormat

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
            "folder-not-empty", f"{target} exists and is not empty", "name another folder, or say --replace"
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
    """The tables that the estate needs; a small one needs none, and then no library of tables."""
    with_racks = len(estate.racks) > _RACKS_IN_YAML
    if not (with_racks or len(estate.fleet) or not counts_in_yaml):
        return
    from evac.estate.tables import writing

    if with_racks:
        writing.write_table(writing.racks_frame(estate.racks), folder / "racks", kind)
    if len(estate.fleet):
        writing.write_table(writing.servers_frame(estate), folder / "servers", kind)
    if not counts_in_yaml:
        writing.write_table(writing.replicas_frame(estate), folder / "replicas", kind)


def _counts_fit_yaml(estate: Estate) -> bool:
    """Whether counts by site and pool say it all, and add up to what each service states."""
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
        "stores.yaml": {"stores", "recovery_groups"},
        "facts.yaml": {"facts"},
    }
    found = {"estate.yaml": document(teller, tuple(keys - set().union(*apart.values())), comment, True)}
    for name, wanted in apart.items():
        if name != "facts.yaml" or teller.facts():
            found[name] = document(teller, tuple(wanted), (_SCHEMA_LINE,), False)
    return found


def _swap(fresh: Path, target: Path) -> None:
    """Give `fresh` the name of `target`; files that are not the estate's own come along."""
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
