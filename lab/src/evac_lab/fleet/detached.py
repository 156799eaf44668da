"""A fleet in the background: begun, waited for until it answers, and ended by the folder it lives in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from evac_lab import proc_table
from evac_lab.fleet.running import read_state
from evac_lab.fleet.serving import FleetFailed

LOG_FILE: Final = "fleet.log"
START_S: Final = 180.0
END_S: Final = 30.0
_LOOK_S: Final = 0.1
STOP_S: Final = 5.0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Of one that did not start: nothing of it is left when this returns."""
    for number, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return


def begin(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Starts `evac ARGUMENTS` in a session of its own; what the fleet says once it answers. Raises
    `FleetFailed` with its last words where it ends before, or takes too long.
    """
    if (found := read_state(folder)) is not None:
        raise FleetFailed(
            "fleet-runs", f"a fleet runs here already, pid {found['pid']}", "end it: evac lab fleet --end"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "evac", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        about = read_state(folder)
        if about is not None and about["pid"] == process.pid:
            process.returncode = 0  # it lives on when this command ends: not ours to wait for
            return about
        time.sleep(_LOOK_S)
    _end(process)
    words = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise FleetFailed(
        "fleet-start", "it did not start: " + " ".join(words[-3:])[-400:], f"see {folder / LOG_FILE}"
    )


def end(folder: Path) -> bool:
    """Ends the fleet of a folder; False where none runs. Raises `FleetFailed` where it does not end."""
    found = read_state(folder)
    if found is None:
        return False
    pid, started = int(found["pid"]), int(found["started"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + END_S
    while proc_table.same(pid, started):
        if time.monotonic() > until:
            raise FleetFailed("fleet-end", f"pid {pid} does not end", f"kill -9 {pid}")
        time.sleep(_LOOK_S)
    return True
