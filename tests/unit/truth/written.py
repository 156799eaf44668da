"""Small estates as people write them: YAML and tables, read from files like those of a company."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from evac.estate import load
from evac.model.estate import Estate

AT_ONCE: Final = "detection: 0 s\napproval: 0 s\n"
"""Times of return are those of the steps alone."""


def written(folder: Path, text: str, lead: str = AT_ONCE, **tables: str) -> Estate:
    """An estate of one YAML file and the tables that are given by name. lead: how long it takes to detect a
    loss and to approve a plan.
    """
    folder.mkdir(exist_ok=True)
    (folder / "estate.yaml").write_text(f"evac: 1\n{text}\n{lead}", encoding="utf-8")
    for name, table in tables.items():
        (folder / f"{name}.csv").write_text(table, encoding="utf-8")
    return load(folder)


def servers(*lines: str) -> str:
    """A table of servers: name, site, rack, class, state and pool of each."""
    return "\n".join(("server,site,rack,class,state,pool", *lines)) + "\n"
