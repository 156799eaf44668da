"""The command lines of evac's own processes in the lab. The one place that knows how they are called."""

from __future__ import annotations

import sys
from pathlib import Path


def messenger(config: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "evac_lab.messenger", str(config))


def router(config: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "evac_lab.wan_router", str(config))


def agent(config: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "evac", "agent", str(config))


def controller(estate: Path, site: str, store: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "evac", "serve", str(estate), "--site", site, "--store", store)


def clients(config: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "evac_lab.clients", str(config))
