"""Feeds mutated orders, store entries, bundles, answers and sources to their readers, and counts what fails.

    python scripts/fuzz_hostile.py [--cases 1000000] [--seed 1] [--seconds 600] [--only REGEX]

A reader may refuse what it does not understand, by an error of evac. Anything else is a finding: another
exception, a case that computes for longer than a second, or a reader that takes more than 256 MB. The same
seed gives the same cases. Mutations know JSON: values are exchanged for others of another kind or size, keys
go, bits flip. Every reader has the same share: they take turns, so that one that is slow keeps no other from
its own. A run that ends before each had its share fails, and says so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import orjson

from fuzz_targets import Target, targets

SLOW_S: Final = 1.0
TURNS: Final = 20
GROWTH_MOST_KB: Final = 256 << 10
_HOSTILE: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    2**53,
    2**63,
    2**64 - 1,
    -(2**63),
    1.5,
    -1e308,
    "",
    "a" * 5_000,
    "\0",
    "../../etc/passwd",
    "file:/etc/shadow",
    "NaN",
    "9" * 5_000,
    "\u202e\ud7ff",
    [],
    [[]],
    {},
    {"": {}},
    [None] * 50,
    ["x", 1, None],
)


def mutated(dice: random.Random, seed: bytes) -> bytes:
    """JSON is changed by its structure most of the time; all else, and the rest of the time, by its bytes."""
    if dice.random() < 0.7:
        try:
            value = orjson.loads(seed)
        except orjson.JSONDecodeError:
            pass
        else:
            for _ in range(dice.randint(1, 3)):
                value = _exchanged(dice, value)
            try:
                return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
            except (orjson.JSONEncodeError, TypeError, ValueError):
                pass
    data = bytearray(seed)
    for _ in range(dice.randint(1, 8)):
        at, way = dice.randrange(len(data) + 1), dice.randrange(4)
        if way == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif way == 1:
            data[at:at] = dice.choice((b"1e999", b"[" * 500, b'{"a":', b"\x00", b"\xff", b"9" * 400, b"\n"))
        elif way == 2:
            del data[at : at + dice.randint(1, 40)]
        else:
            data[at:at] = data[dice.randrange(len(data) + 1) :][:200]
    return bytes(data)


def _exchanged(dice: random.Random, value: Any) -> Any:
    """One value somewhere in it is another."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        rest = dict(value)
        if dice.random() < 0.1:
            del rest[key]
        elif dice.random() < 0.1:
            rest[str(dice.choice(_HOSTILE))[:200]] = rest.pop(key)
        else:
            rest[key] = _exchanged(dice, value[key])
        return rest
    if isinstance(value, list) and value and dice.random() < 0.9:
        at = dice.randrange(len(value))
        return [*value[:at], _exchanged(dice, value[at]), *value[at + 1 :]]
    return dice.choice(_HOSTILE)


@dataclass(slots=True)
class Found:
    """What a reader did with its cases."""

    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    took_s: float = 0.0


def fuzz(name: str, target: Target, cases: int, seed: str, until_s: float) -> tuple[Counter[str], list[str]]:
    """(how many cases ended in which way, findings). until_s: processor time of this process."""
    dice, ends, findings = random.Random(f"{seed}/{name}"), Counter[str](), list[str]()
    for seed_bytes in target.seeds:  # what is loaded once counts for no case
        with contextlib.suppress(*target.refusals):
            target.read(seed_bytes)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(cases):
        if time.process_time() > until_s:
            break
        data, began = mutated(dice, dice.choice(target.seeds)), time.process_time()
        try:
            target.read(data)
            ends["read"] += 1
        except target.refusals:
            ends["refused"] += 1
        except Exception as error:
            ends["finding"] += 1
            findings.append(
                f"{name} case {number}: {type(error).__name__}: {str(error)[:100]} {data[:160]!r}"
            )
        took_s = time.process_time() - began
        if took_s > SLOW_S:
            findings.append(f"{name} case {number}: took {took_s:.1f} s: {data[:160]!r}")
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    if grown_kb > GROWTH_MOST_KB:
        findings.append(f"{name}: memory grew by {grown_kb >> 10} MB")
    return ends, findings


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=1_000_000, help="of all targets together")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=float, default=600.0, help="of processor time")
    options.add_argument("--only", default="", help="names of targets, as a regular expression")
    asked = options.parse_args()
    until_s = time.process_time() + asked.seconds
    memory = Path("/dev/shm")  # what is written here needs to outlive no crash
    where = memory if memory.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="evac-fuzz-", dir=where) as folder,
        mock.patch.object(os, "fsync", return_value=None),
    ):
        chosen = {name: one for name, one in targets(Path(folder)).items() if re.search(asked.only, name)}
        share = -(-asked.cases // len(chosen))
        found = {name: Found() for name in chosen}
        for turn in range(TURNS):
            for name, target in chosen.items():
                cases = share * (turn + 1) // TURNS - share * turn // TURNS
                began_s = time.process_time()
                ends, findings = fuzz(name, target, cases, f"{asked.seed}/{turn}", until_s)
                found[name].ends += ends
                found[name].findings += findings
                found[name].took_s += time.process_time() - began_s
    for name, one in found.items():
        count = sum(one.ends.values())
        speed = f"{count / (one.took_s + 1e-9):,.0f} a second of a core"
        print(f"{name:20} {count:,} of {share:,}: {dict(one.ends)}, {speed}")
        kinds = {words.partition(": ")[2][:40]: words for words in reversed(one.findings)}
        for finding in list(kinds.values())[:6]:
            print(f"  {finding}")
    short = [name for name, one in found.items() if sum(one.ends.values()) < share]
    print(f"{sum(sum(one.ends.values()) for one in found.values()):,} cases, {len(found)} readers")
    if short:
        print(f"time ran out before these had their share: {', '.join(short)}")
    return 1 if short or any(one.findings for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
