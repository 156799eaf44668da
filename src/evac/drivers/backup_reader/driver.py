"""Driver that reads the reports of other backup tools. It takes, copies and restores nothing.

It proves at most what the tool's own check covers: the structure. The date of a check is when the tool ran
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from evac.drivers.backup_reader.formats import PROVES_NOTHING, READERS, Report
from evac.drivers.backups import Stopwatch, Tool, document, in_time, unreadable
from evac.drivers.capabilities import READ, STRUCTURE, Listing, Proof, ProofOutcome, Taken, TakesBackups
from evac.drivers.parameters import many, text
from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.drivers.programs import given
from evac.model.errors import ActionError, Permanent, Retryable

FILE_BYTES: Final = 32 << 20
_CHECKED_BY_PROGRAM: Final = ("wal-g", "kopia")


class BackupReaderDriver(TakesBackups):
    """Each endpoint is one list of one tool."""

    name = "backup_reader"

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        report = await _report(action, Stopwatch(timeout_s))
        tool, source = _format(action), text(action.settings, "source", "")
        mine = (one for one in report.copies if not source or source in (one.source, *one.paths))
        in_order = tuple(sorted(mine, key=lambda one: (one.taken_at, one.id)))
        return Listing(report.repository, in_order, tool, "")

    async def take(self, action: Action, timeout_s: float) -> Taken:
        words = (
            f"evac does not take backups with {_format(action)}; it only reads what {_format(action)} reports"
        )
        raise Permanent("take-unsupported", words, "use the tool's own schedule")

    async def copy_on(self, action: Action, timeout_s: float, to: Action) -> Taken:
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
            return said("could-not-run", error.code, error.message)
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
        raise Permanent("setting-wrong", f"format must be one of: {', '.join(READERS)}")
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
