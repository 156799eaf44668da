"""Figures: a value measured here, its target beside it, whether it was met; printed at once, kept for JSON.

Knows nothing of what is measured. A figure that could not be measured is printed too, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Sense = Literal["at least", "at most"]
WIDTH = 58
STOLEN_WORTH_SAYING_S = 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    """name: what a program looks it up by; what: what people read. value: the median where there are samples;
    None where it could not be measured. target: None where there is nothing to reach.
    """

    name: str
    what: str
    value: float | None
    unit: str
    target: float | None = None
    sense: Sense = "at least"
    note: str = ""
    samples: tuple[float, ...] = ()

    @property
    def met(self) -> bool | None:
        """Whether it reaches its target; None where either is missing."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.sense == "at least" else self.value <= self.target

    def line(self) -> str:
        """One row: what, value, target, verdict, note."""
        value = "not measured" if self.value is None else f"{number(self.value)} {self.unit}"
        target = "" if self.target is None else f"{self.sense} {number(self.target)}"
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return f"  {self.what:<{WIDTH}} {value:>19}   {target:<16} {verdict:<7} {self.note}".rstrip()


def peak_mib(process: str = "self") -> float:
    """The most memory a process had in RAM at any time. `getrusage` counts the memory of its parent, too: a
    child begins with what its parent had when it was started.
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1_024


def median(
    name: str,
    what: str,
    samples: Sequence[float],
    unit: str,
    target: float | None = None,
    sense: Sense = "at least",
    note: str = "",
) -> Figure:
    """The median of some samples; without any it was not measured."""
    value = statistics.median(samples) if samples else None
    return Figure(name, what, value, unit, target, sense, note, tuple(samples))


def worst(
    name: str, what: str, samples: Sequence[float], unit: str, target: float | None = None, note: str = ""
) -> Figure:
    """The largest of some samples, which shall stay small."""
    return Figure(name, what, max(samples, default=None), unit, target, "at most", note)


def number(value: float) -> str:
    """As many digits as tell something."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    places = 0 if abs(value) >= 1_000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{places}f}"


def stolen_seconds() -> float:
    """Processor time, of all cores since the start, that a machine wanted and its host gave to others; 0
    where the system does not count it.
    """
    try:
        with Path("/proc/stat").open(encoding="ascii") as lines:
            fields = lines.readline().split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(slots=True)
class Table:
    """Everything that was measured in one run."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    stolen_s: float = field(default_factory=stolen_seconds)

    def open(self) -> None:
        print(f"{self.title}\n{machine_words()}", flush=True)

    def section(self, words: str) -> None:
        """A heading, with the load at that moment: a busy machine explains a bad figure."""
        self._robbed()
        print(f"\n{words}   (load {os.getloadavg()[0]:.1f})", flush=True)

    def _robbed(self) -> None:
        """Says what the host kept from this machine since the last heading: that explains one too."""
        now = stolen_seconds()
        if now - self.stolen_s >= STOLEN_WORTH_SAYING_S:
            print(f"  {now - self.stolen_s:.1f} s of processor went to others on this host", flush=True)
        self.stolen_s = now

    def add(self, *figures: Figure) -> None:
        for figure in figures:
            self.figures.append(figure)
            print(figure.line(), flush=True)

    def trouble(self, words: str) -> None:
        """What could not be measured, or went wrong, in plain words."""
        self.troubles.append(words)
        print(f"  ! {words}", flush=True)

    def close(self, path: Path | None) -> int:
        """Counts what was met and writes the JSON. Returns the exit status: 0 where every target was met."""
        met = sum(figure.met is True for figure in self.figures)
        missed = sum(figure.met is False for figure in self.figures)
        unknown = sum(figure.met is None and figure.target is not None for figure in self.figures)
        took = time.time() - self.began
        self._robbed()
        words = f"{met} targets met, {missed} missed, {unknown} not measured, {len(self.troubles)} troubles"
        print(f"\n{words}, in {took:.0f} s", flush=True)
        if path is not None:
            path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
            print(f"written: {path}", flush=True)
        return 1 if missed or unknown else 0

    def to_json(self) -> dict[str, object]:
        rows = [{**asdict(figure), "met": figure.met} for figure in self.figures]
        facts = {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}
        return {
            "schema_version": 1,
            "title": self.title,
            "began": self.began,
            "machine": facts,
            "figures": rows,
            "troubles": self.troubles,
        }


def parts_of(asked: str, parts: Iterable[str], parser: argparse.ArgumentParser) -> list[str]:
    """The parts of `--only A,B`. Ends with what there is where one is not known."""
    found, known = asked.split(","), list(parts)
    if unknown := sorted(set(found).difference(known)):
        parser.error(f"--only takes {', '.join(known)}; not {', '.join(unknown)}")
    return found


def machine_words() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}"
    )
