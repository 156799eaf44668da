"""Rules for credits where the accounts are in Spark: the same lines, to the last unit, from a real one."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sqlglot")

from evac.app.credit import case, computing
from evac.credit.exact import Account
from evac.credit.rules import RuleSet
from evac.credit.windows import Window
from tests.contract import spark_rows
from tests.unit.credit import random_cases
from tests.unit.credit.test_engines import by_fractions, frame

HOUR = 3_600_000
BRIEF = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""What a short run of Java compiles and collects: a third of the processor time."""
BEGIN = 1_665_815_580_000
Case = tuple[RuleSet, list[Window], list[Account]]


def cases() -> list[Case]:
    """A random rule set that gives lines, and one that people know."""
    found: list[Case] = []
    rng = random.Random(2)
    rules, windows = random_cases.rule_set(rng), random_cases.windows(rng)
    found.append((rules, windows, random_cases.accounts(rng, 100)))
    known = [Account(f"a{fee}", "mobile", "individual", fee, "KRW", "2022-10") for fee in range(1_000, 1_300)]
    found.append((case.load("kt-2021"), [Window("w", "mobile", BEGIN, BEGIN + 89 * 60_000)], known))
    return found


@pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed")
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_finds_the_lines_of_the_ledger(tmp_path: Path) -> None:
    every = cases()
    for number, (rules, windows, rows) in enumerate(every):
        frame(rows).write_parquet(tmp_path / f"{number}.parquet")
        (tmp_path / f"{number}.sql").write_text(computing.statement(rules, windows, "spark", "bill"))
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "JAVA_TOOL_OPTIONS": BRIEF}
    done = subprocess.run(
        [sys.executable, spark_rows.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    lines = 0
    for number, (rules, windows, rows) in enumerate(every):
        found = sorted(tuple(row) for row in json.loads((tmp_path / f"{number}.json").read_text()))
        assert found == by_fractions(rules, windows, rows), rules
        lines += len(found)
    assert lines > 300, "cases that give nothing prove nothing"
