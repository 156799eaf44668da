"""Reports of other backup tools as copies and checks. Pure.

Formats: Velero 1.x (`velero.io/v1`), k8up 2.x (`k8up.io/v1`), CloudNativePG 1.x (`postgresql.cnpg.io/v1`),
`wal-g backup-list --json --detail` and `kopia snapshot list --json`. A backup in progress is not a copy; one
that its tool calls partly failed, cancelled or incomplete has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from evac.drivers.backups import number, objects, unreadable, word
from evac.drivers.capabilities import CopyReport


@dataclass(frozen=True, slots=True)
class Report:
    """A tool's report."""

    copies: tuple[CopyReport, ...]
    repository: str = ""
    checks: tuple[tuple[int, bool, str], ...] = ()
    """(seconds since 1970, whether it passed, its name) of checks that the tool ran itself, oldest first."""


Reader = Callable[[Any], Report]


def _moment(found: object, name: str) -> int:
    try:
        return int(datetime.fromisoformat(word(found, name)).timestamp())
    except (ValueError, OverflowError) as error:
        raise unreadable(name, "a time is missing") from error


def _part(found: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The value at a path; nothing if any part of it is missing."""
    for name in path:
        found = found.get(name) or {}
        if not isinstance(found, dict):
            raise unreadable("the list", f"no objects in {name}")
    return found


def _kinds(found: object, group: str) -> Iterator[tuple[str, Mapping[str, Any], str, Mapping[str, Any]]]:
    """(kind, whole object, its namespace and name, its status) of the objects of one API group, as `kubectl
    get -o json` prints them.
    """
    whole = found if isinstance(found, dict) else {}
    entries = objects(whole.get("items"), "the dump") if "items" in whole else [whole]
    for entry in entries:
        kind, version = (word(entry.get(key), "the dump") for key in ("kind", "apiVersion"))
        if version.partition("/")[0] == group:
            about = _part(entry, "metadata")
            name = f"{word(about.get('namespace', ''), kind)}/{word(about.get('name'), kind)}".lstrip("/")
            yield kind, entry, name, _part(entry, "status")


def _velero(found: Any) -> Report:
    """Its only statement is Completed: nothing was read back. A partly failed backup is incomplete."""
    copies = []
    for kind, entry, name, status in _kinds(found, "velero.io"):
        phase = word(status.get("phase", ""), kind)
        if kind != "Backup" or phase not in _ENDED_VELERO or "startTimestamp" not in status:
            continue
        labels = _part(entry, "metadata", "labels")
        source = word(labels.get("velero.io/schedule-name", ""), kind)
        spaces = _part(entry, "spec").get("includedNamespaces") or []
        paths = tuple(word(one, kind) for one in spaces) if isinstance(spaces, list) else ()
        taken_at = _moment(status["startTimestamp"], kind)
        failed = phase != "Completed" or bool(number(status.get("errors", 0), kind))
        copies.append(CopyReport(name, taken_at, paths=paths, source=source, failed=failed))
    return Report(tuple(copies))


_ENDED_VELERO: Final = frozenset({"Completed", "PartiallyFailed", "Failed", "FailedValidation"})


def _k8up(found: Any) -> Report:
    """Its snapshots, failed backups, and checks, which inspect the structure and compare nothing."""
    copies, checks, repository = [], [], ""
    for kind, entry, name, status in _kinds(found, "k8up.io"):
        if kind == "Snapshot":
            spec = _part(entry, "spec")
            repository = word(spec.get("repository", ""), kind)
            paths = spec.get("paths") or []
            held = tuple(word(one, kind) for one in paths) if isinstance(paths, list) else ()
            id_, taken_at = word(spec.get("id"), kind), _moment(spec.get("date"), kind)
            copies.append(CopyReport(id_, taken_at, paths=held, source=name.partition("/")[0]))
        elif kind in ("Backup", "Check"):
            conditions = objects(status.get("conditions", []), kind)
            ended = next((one for one in conditions if one.get("type") == "Completed"), {})
            if ended.get("status") != "True":
                continue
            passed = ended.get("reason") == "Succeeded"
            at = _moment(status.get("finished") or ended.get("lastTransitionTime"), kind)
            if kind == "Check":
                checks.append((at, passed, name))
            elif not passed:
                copies.append(CopyReport(name, at, source=name.partition("/")[0], failed=True))
    return Report(tuple(copies), repository, tuple(sorted(checks)))


def _cloudnativepg(found: Any) -> Report:
    """One cluster each. A completed backup was stored, which does not mean that it is readable."""
    copies = []
    for kind, entry, name, status in _kinds(found, "postgresql.cnpg.io"):
        phase = word(status.get("phase", ""), kind)
        if kind != "Backup" or phase not in ("completed", "failed", "walArchivingFailing"):
            continue
        cluster = word(_part(entry, "spec", "cluster").get("name", ""), kind)
        at = status.get("startedAt") or _part(entry, "metadata").get("creationTimestamp")
        failed = phase != "completed" or bool(status.get("error"))
        copies.append(CopyReport(name, _moment(at, kind), source=cluster, failed=failed))
    return Report(tuple(copies))


def _wal_g(found: Any) -> Report:
    name, copies, systems = "wal-g", [], set()
    for entry in objects(found, name):
        size = entry.get("uncompressed_size")
        if "system_identifier" in entry:
            systems.add(str(number(entry["system_identifier"], name)))
        copies.append(
            CopyReport(
                word(entry.get("backup_name"), name),
                _moment(entry.get("start_time"), name),
                None if size is None else number(size, name),
                source=word(entry.get("hostname", ""), name),
                consistent_at=_moment(entry.get("finish_time"), name) + 1,
            )
        )
    return Report(tuple(copies), ",".join(sorted(systems)))


def _kopia(found: Any) -> Report:
    name, copies = "kopia", []
    for entry in objects(found, name):
        source, stats, root = (_part(entry, key) for key in ("source", "stats", "rootEntry"))
        summary = _part(root, "summ")
        path, host = (word(source.get(key, ""), name) for key in ("path", "host"))
        lost = number(stats.get("errorCount", 0), name) + number(summary.get("numFailed", 0), name)
        copies.append(
            CopyReport(
                word(entry.get("id"), name),
                _moment(entry.get("startTime"), name),
                number(summary.get("size", stats.get("totalSize", 0)), name),
                number(summary.get("files", stats.get("fileCount", 0)), name),
                (path,),
                host,
                tree=word(root.get("obj", ""), name),
                failed=bool(entry.get("incomplete")) or lost > 0,
            )
        )
    return Report(tuple(copies))


READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {"velero": _velero, "k8up": _k8up, "cloudnativepg": _cloudnativepg, "wal-g": _wal_g, "kopia": _kopia}
)
PROVES_NOTHING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "velero": "Velero reports that a backup completed, but does not check it afterwards",
        "k8up": "k8up's Check does not compare data: it only checks the structure of the repository",
        "cloudnativepg": "CloudNativePG reports that a backup completed, but does not check it afterwards",
        "wal-g": "wal-verify checks that segments exist, not what they contain",
        "kopia": "by default, verify reads 0 % of the contents",
    }
)
"""Why none of their checks proves that bytes were read."""
