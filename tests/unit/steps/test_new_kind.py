"""A new kind of step that a person does is one module and one line: everything else shows it by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson

MODULE = '''"""Quiesce: writes of a store stop for a moment."""

from evac.steps.kind import Entry, StepKind


class Quiesce(StepKind):
    name = "quiesce"
    target = "store"
    title = "stop the writes of the store for a moment"
    work = "quiesce stores"
    sentence = "quiesce {target}"
    entry = Entry("quiesced", "writes of {target} have stopped", "main")
    precheck = "its clients can wait"
    gate = "nothing writes"
    undo = "let it take writes again"
'''
ESTATE = """evac: 2
name: two
horizon: 1 h
sites: {a: {}, b: {}}
limits: {manual: {quiesce: 90 s}}
"""
PROGRAM = """
import sys
from pathlib import Path

import orjson

from evac.estate.loading import load
from evac.incident.incident import summary
from evac.incident.regulator import basics
from evac.incident.runbook import runbook
from evac.incident.timeline import timeline
from evac.model.plan import Step
from evac.views.plan_charts import work_by_kind
from evac.web.pages.projection import words_of
from tests.unit.incident.stories import DIGEST, T0, fire, plan_of

step = Step("quiesce:db", "quiesce", "db", 0, 1_000, manual=True)
plan = plan_of(steps=(step,))
dossier = fire(plan=plan)
about = summary(dossier)
estate = load(Path(sys.argv[1]))
print(orjson.dumps({
    "manual": estate.limits.manual_ms["quiesce"],
    "timeline": [one.words for one in timeline(dossier, about) if one.kind == "quiesced"],
    "report": [one.kind for one in basics(dossier, about, T0 + 3_600_000).actions if one.step == step.id],
    "runbook": [one.words for part in runbook(plan, DIGEST).parts for one in part.steps],
    "chart": [work.kind for work in work_by_kind(plan)],
    "run": words_of("quiesce"),
}).decode())
"""


def with_kind(project_root: Path, folder: Path) -> list[str]:
    """Copies the source and adds the kind. Returns the files of the source that this touched."""
    shutil.copytree(
        project_root / "src" / "evac", folder / "evac", ignore=shutil.ignore_patterns("__pycache__")
    )
    steps = folder / "evac" / "steps"
    (steps / "quiesce.py").write_text(MODULE)
    registry = steps / "registry.py"
    text = registry.read_text()
    text = text.replace("    Approve(),\n", "    Approve(),\n    Quiesce(),\n")
    text = text.replace(
        "from evac.steps.redirect ", "from evac.steps.quiesce import Quiesce\nfrom evac.steps.redirect "
    )
    registry.write_text(text)
    return sorted(
        path.relative_to(folder / "evac").as_posix()
        for path in (folder / "evac").rglob("*.py")
        if not (before := project_root / "src" / "evac" / path.relative_to(folder / "evac")).exists()
        or before.read_bytes() != path.read_bytes()
    )


def test_a_kind_that_a_person_does_is_one_module_and_one_line(project_root: Path, tmp_path: Path) -> None:
    touched = with_kind(project_root, tmp_path)
    assert touched == ["steps/quiesce.py", "steps/registry.py"]
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(ESTATE)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "estate")],
        cwd=project_root,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{project_root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert orjson.loads(ended.stdout) == {
        "manual": 90_000,
        "timeline": ["writes of db have stopped"],
        "report": ["quiesced"],
        "runbook": ["stop the writes of the store for a moment: db"],
        "chart": ["quiesce"],
        "run": "quiesce stores",
    }
