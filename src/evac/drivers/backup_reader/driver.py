"""Driver that reads the reports of other backup tools. It takes, copies and restores nothing.

It proves at most what the tool's own check covers: the structure. The date of a check is when the tool ran
it.

Formats: Velero 1.x (`velero.io/v1`), k8up 2.x (`k8up.io/v1`), CloudNativePG 1.x (`postgresql.cnpg.io/v1`),
`wal-g backup-list --json --detail` and `kopia snapshot list --json`. A backup in progress is not a copy; one
that its tool calls partly failed, cancelled or incomplete has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from evac.drivers.backups import Stopwatch, Tool, document, in_time, number, objects, unreadable, word
from evac.drivers.capabilities import (
    READ,
    STRUCTURE,
    Begins,
    CopyReport,
    Listing,
    Proof,
    ProofOutcome,
    Taken,
    TakesBackups,
)
from evac.drivers.parameters import many, text
from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.drivers.programs import given
from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.records import dataclass

FILE_BYTES: Final = 32 << 20
_CHECKED_BY_PROGRAM: Final = ("wal-g", "kopia")


class BackupReaderDriver(TakesBackups):
    """Each endpoint is one list of one tool."""

    name = "backup_reader"

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        report = await _report(action, Stopwatch(timeout_s))
        tool, source = _format(action), text(action.settings, "source", "")
        mine = [one for one in report.copies if not source or source in (one.source, *one.paths)]
        in_order = tuple(sorted(mine, key=lambda one: (one.taken_at, one.id)))
        stated = {report.repositories[one.id] for one in mine if one.id in report.repositories}
        return Listing(stated.pop() if len(stated) == 1 else "", in_order, tool, "")

    async def take(self, action: Action, timeout_s: float) -> Taken:
        words = (
            f"evac does not take backups with {_format(action)}; it only reads what {_format(action)} reports"
        )
        raise Permanent("take-unsupported", words, "use the tool's own schedule")

    async def copy_on(self, action: Action, timeout_s: float, to: Action, begins: Begins) -> Taken:
        raise Permanent(
            "copy-unsupported", f"evac does not copy backups of {_format(action)}", "let that tool copy them"
        )

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        """Nothing: evac is not involved when these tools take a backup."""
        return {}

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        """Prove at most level 1, whatever level is requested: the tool's own check."""
        if level not in (STRUCTURE, READ):
            raise Permanent("proof-unknown", f"a report cannot prove level {level}")
        watch, tool = Stopwatch(timeout_s), _format(action)

        def said(outcome: ProofOutcome, code: str, detail: str, at: int | None = None) -> Proof:
            facts = (STRUCTURE, outcome, 0, 0, watch.took_ms, action.at, tool, "")
            return Proof("", *facts, code, detail[:600], at)

        try:
            if tool in _CHECKED_BY_PROGRAM and many(action.settings, "check_argv"):
                return said(*await _checked(action, tool, watch))
            report = await _report(action, watch)
        except ActionError as error:
            return said("could-not-run", error.code, error.words)
        if not report.checks:
            more = "; set the program that checks: check_argv" if tool in _CHECKED_BY_PROGRAM else ""
            return said("could-not-run", "nothing-read", f"{PROVES_NOTHING[tool]}{more}")
        at, passed, name = report.checks[-1]
        if not passed:
            return said("could-not-run", "check-failed", f"{name} failed: check its log", at)
        return said("passed", "", PROVES_NOTHING[tool], at)

    async def check(self, action: Action, order: Order) -> Checked:
        return Checked((f"the driver {self.name} only reads",))

    async def execute(self, action: Action, order: Order) -> Evidence:
        raise Permanent("verb-unknown", f"the driver {self.name} cannot {action.verb}")

    async def observe(self, action: Action, order: Order) -> Observed:
        return Observed("unclear", {"why": f"the driver {self.name} only reads"})

    async def undo(self, action: Action, order: Order) -> Evidence:
        raise Permanent("not-undone", f"the driver {self.name} does nothing that can be undone")

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""
        return


def _format(action: Action) -> str:
    tool = text(action.settings, "format")
    if tool not in READERS:
        raise Permanent("setting-wrong", f"format must be one of: {', '.join(READERS)}", "correct `format`")
    return tool


async def _report(action: Action, watch: Stopwatch) -> Report:
    """The tool's current report, or the one in a file. Raises `ActionError`."""
    tool, argv, file = _format(action), many(action.settings, "argv"), text(action.settings, "file", "")
    if not argv and not file:
        raise Permanent("setting-missing", "neither argv nor file is set", "set the program: argv")
    if argv:
        said = await _run(action, argv, watch)
    else:
        said = await in_time(lambda: _read(Path(file)), watch, f"reading {file}")
    return READERS[tool](document(said, tool))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        hint = "give this user read permission"
        raise Permanent("backup-no-repository", f"{path} cannot be read: {error.strerror}", hint) from error
    if len(content) > FILE_BYTES:
        raise unreadable(str(path), f"more than {FILE_BYTES:,} bytes")
    return content.decode("utf-8", "replace")


async def _run(action: Action, argv: tuple[str, ...], watch: Stopwatch) -> str:
    env, hidden = given(action.settings)
    return (await Tool(argv[0], env, hidden, _REASONS).run(*argv[1:], timeout_s=watch.left_s)).output


_REASONS: Final = (
    ("connection refused", Retryable("backup-silent", "its server does not answer", "start it")),
    (
        "forbidden",
        Permanent("backup-forbidden", "the account has no permission to list", "give it permission to list"),
    ),
    ("unauthorized", Permanent("backup-password", "the login was rejected", "check `env`")),
)


async def _checked(action: Action, tool: str, watch: Stopwatch) -> tuple[ProofOutcome, str, str]:
    """Outcome, code and message of a check that runs now. Raises `ActionError` if it cannot run."""
    said = await _run(action, many(action.settings, "check_argv"), watch)
    if tool != "wal-g":
        return "passed", "", PROVES_NOTHING[tool]
    found: Any = document(said, tool)
    integrity = found.get("integrity") if isinstance(found, dict) else None
    status = integrity.get("status") if isinstance(integrity, dict) else None
    if status == "OK":
        return "passed", "", PROVES_NOTHING[tool]
    if status == "FAILURE":
        return (
            "damaged",
            "backup-corrupt",
            "log segments are missing: later points in time cannot be restored",
        )
    return "could-not-run", "check-unclear", f"wal-verify reports {str(status)[:80]}"


@dataclass(frozen=True, slots=True)
class Report:
    """A tool's report."""

    copies: tuple[CopyReport, ...]
    repositories: Mapping[str, str] = MappingProxyType({})
    """Id of a copy -> its repository, as far as the tool states it."""
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
    copies, checks, repositories = [], [], {}
    for kind, entry, name, status in _kinds(found, "k8up.io"):
        if kind == "Snapshot":
            spec = _part(entry, "spec")
            paths = spec.get("paths") or []
            held = tuple(word(one, kind) for one in paths) if isinstance(paths, list) else ()
            id_, taken_at = word(spec.get("id"), kind), _moment(spec.get("date"), kind)
            repositories[id_] = word(spec.get("repository", ""), kind)
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
    return Report(tuple(copies), repositories, tuple(sorted(checks)))


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
    name, copies, systems = "wal-g", [], {}
    for entry in objects(found, name):
        size = entry.get("uncompressed_size")
        id_ = word(entry.get("backup_name"), name)
        if "system_identifier" in entry:
            systems[id_] = str(number(entry["system_identifier"], name))
        copies.append(
            CopyReport(
                id_,
                _moment(entry.get("start_time"), name),
                None if size is None else number(size, name),
                source=word(entry.get("hostname", ""), name),
                consistent_at=_moment(entry.get("finish_time"), name) + 1,
            )
        )
    return Report(tuple(copies), systems)


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
