"""Wall clocks that jump: libfaketime, where it is installed and the lab came up with it.

Only evac's own processes get it; their monotonic clock is left alone, as a real jump leaves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from evac_lab.state import LabError, LabFolder, LabState

PACKAGE: Final = "faketime"
_LIBRARIES: Final = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


def library() -> Path | None:
    """Where libfaketime is."""
    found = [path for pattern in _LIBRARIES for path in Path("/").glob(pattern.lstrip("/"))]
    return found[0] if found else None


def clock_file(folder: LabFolder, site: str) -> Path:
    return folder.path / "clocks" / site


def environment(folder: LabFolder, site: str) -> Mapping[str, str]:
    """What a process is started with so that its clock may jump later. Raises `LabError` without it."""
    found = library()
    if found is None:
        raise LabError("lab-clocks", "libfaketime is not installed", f"sudo apt-get install {PACKAGE}")
    path = clock_file(folder, site)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("+0", encoding="ascii")
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def ahead(folder: LabFolder, sites: Iterable[str]) -> dict[str, float]:
    """Site -> how many seconds its clock is ahead of the true one; behind where negative."""
    found = {}
    for site in sites:
        with suppress(OSError, ValueError):
            found[site] = float(clock_file(folder, site).read_text(encoding="ascii"))
    return found


def jump(folder: LabFolder, state: LabState, site: str, seconds: float) -> None:
    """Sets the clock of a site ahead (or back). Raises `LabError` where the lab came up without clocks."""
    if not any("FAKETIME_TIMESTAMP_FILE" in one.env for one in state.of_site(site)):
        raise LabError(
            "lab-clocks",
            "this lab came up without clocks that jump",
            "evac lab down, then evac lab up --clocks",
        )
    clock_file(folder, site).write_text(f"{seconds:+g}", encoding="ascii")
