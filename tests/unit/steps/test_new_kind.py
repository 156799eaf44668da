"""A new kind of step is one module and one line, whether a person does it or a plan chooses it to restore a
store: everything else reads it from the registry.
"""

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


MOUNT = '''"""Mount: a store runs at once from its backup, mounted where it is kept."""

from collections.abc import Iterator

from evac.steps.kind import Entry, Left, Unstated, Way
from evac.steps.restore import Restore


class Mount(Restore):
    name = "mount"
    title = "mount the backup of the store and start its engine there"
    work = "mount backups"
    sentence = "mount the backup of {target}{where}"
    entry = Entry("mounted", "{target} runs from its mounted backup{where}", "main")
    takes_people = True
    performed_by = None
    doing = "mounting"

    def ways(self, left: Left) -> Iterator[Way | Unstated]:
        """By each backup outside the loss, if the estate states how long people take."""
        for backup, gone in zip(left.store.backups, left.backups_gone, strict=True):
            if not gone and self.name in left.people.manual_ms:
                yield Way(self.name, backup.at, self.way_ms(left.store, left.people), backup.age_ms)
'''
STORE = """evac: 2
name: data
horizon: 1 h
detection: 10 s
approval: 10 s
sites: {north: {}, south: {}}
pools: {n: {site: north, cpu: 9 cores, memory: 9 GiB}, s: {site: south, cpu: 9 cores, memory: 9 GiB}}
services:
  web: {tier: 0, people: 9, replicas: {n: 1}, demand: {cpu: 1 cores, memory: 1 GiB}, start: 1 s, verify: 1 s,
        rto: 10 min, needs: [{store: db}]}
stores:
  db: {engine: postgresql, rpo: 10 s, fence: 1 s, promote: 1 s, members: [{at: north, mode: primary}],
       backups: [{at: south, size: 1 GiB, age: 1 h, restore: 1 Mbit/s}]}
limits: {manual: {mount: 30 s}}
"""
PLANNED = """
import sys
from dataclasses import replace
from pathlib import Path

import orjson

from evac.audit.impacts.stores import outcome_of
from evac.derive.domains import topology
from evac.derive.objectives import rpos
from evac.derive.planning_instance import derive
from evac.derive.stores import people_times
from evac.engine.runs.binding import bind
from evac.estate.codecs.plan import decode, encode
from evac.estate.loading import load
from evac.incident.runbook import runbook
from evac.incident.timeline import timeline
from evac.incident.incident import summary
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Policy, lose
from evac.planning.compiled import interpreted
from evac.planning.plan import plan
from evac.planning.simulation.simulate import simulate
from evac.verify import check
from evac.views.plan_charts import place_words, step_words, work_by_kind
from evac.views.plan_text import plan_text
from tests.unit.incident.stories import DIGEST, fire

estate = load(Path(sys.argv[1]))
with interpreted():
    made = plan(estate, lose("north"), policy=Policy(waivers=("db",)))
    forecast = simulate(derive(estate, lose("north"), Policy(waivers=("db",))), made, trials=20, seed=1)
(step,) = (one for one in made.steps if one.target == "db" and one.candidate)
dossier = fire(plan=made)
run = bind(estate, made, RunPolicy(), run="r", incident="i", digest=DIGEST)
(bound,) = (one for one in run.spec.steps if one.id == step.id)
other = made.steps.index(step)
late = (*made.steps[:other], replace(step, end_ms=step.start_ms + 20_000), *made.steps[other + 1 :])
(limit,) = rpos(topology(estate), "site")
db = outcome_of(estate.stores[0], (True, False), people_times(estate), limit)
print(orjson.dumps({
    "step": [step.id, step.kind, step.candidate, step.end_ms - step.start_ms, list(step.after)],
    "words": step_words(step),
    "place": place_words(made.stores[0], made),
    "waits": step.id in next(one.after for one in made.steps if one.kind == "verify"),
    "violations": [one.rule for one in check(estate, made).violations],
    "too_short": sorted({one.rule for one in check(estate, replace(made, steps=late)).violations}),
    "file": encode(decode(encode(made))) == encode(made),
    "forecast": forecast.trials,
    "audited": [copy.kind for copy in db.copies],
    "text": "db" in plan_text(made, DIGEST, 100, False),
    "chart": [work.kind for work in work_by_kind(made) if work.kind == "mount"],
    "runbook": [one.words for part in runbook(made, DIGEST).parts for one in part.steps if one.id == step.id],
    "timeline": [one.words for one in timeline(dossier, summary(dossier)) if one.kind == "mounted"],
    "run": [bound.kind, bound.manual, bound.gate],
}).decode())
"""


def with_kind(project_root: Path, folder: Path, name: str, module: str) -> list[str]:
    """Copies the source and adds the kind. Returns the files of the source that this touched."""
    shutil.copytree(
        project_root / "src" / "evac", folder / "evac", ignore=shutil.ignore_patterns("__pycache__")
    )
    steps = folder / "evac" / "steps"
    (steps / f"{name}.py").write_text(module)
    registry = steps / "registry.py"
    text = registry.read_text()
    text = text.replace("    Approve(),\n", f"    Approve(),\n    {name.capitalize()}(),\n")
    text = text.replace(
        "from evac.steps.redirect ",
        f"from evac.steps.{name} import {name.capitalize()}\nfrom evac.steps.redirect ",
    )
    registry.write_text(text)
    return sorted(
        path.relative_to(folder / "evac").as_posix()
        for path in (folder / "evac").rglob("*.py")
        if not (before := project_root / "src" / "evac" / path.relative_to(folder / "evac")).exists()
        or before.read_bytes() != path.read_bytes()
    )


def read_back(project_root: Path, folder: Path, estate: str, program: str) -> object:
    """What the program prints that runs on the copy of the source with an estate."""
    (folder / "estate").mkdir()
    (folder / "estate" / "estate.yaml").write_text(estate)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(folder / "estate")],
        cwd=project_root,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{project_root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return orjson.loads(ended.stdout)


def test_a_kind_that_a_person_does_is_one_module_and_one_line(project_root: Path, tmp_path: Path) -> None:
    touched = with_kind(project_root, tmp_path, "quiesce", MODULE)
    assert touched == ["steps/quiesce.py", "steps/registry.py"]
    assert read_back(project_root, tmp_path, ESTATE, PROGRAM) == {
        "manual": 90_000,
        "timeline": ["writes of db have stopped"],
        "report": ["quiesced"],
        "runbook": ["stop the writes of the store for a moment: db"],
        "chart": ["quiesce"],
        "run": "quiesce stores",
    }


def test_a_way_to_restore_a_store_that_plans_choose_is_one_module_and_one_line(
    project_root: Path, tmp_path: Path
) -> None:
    touched = with_kind(project_root, tmp_path, "mount", MOUNT)
    assert touched == ["steps/mount.py", "steps/registry.py"]
    assert read_back(project_root, tmp_path, STORE, PLANNED) == {
        "step": ["mount:db", "mount", "south", 30_000, ["fence:db"]],
        "words": "mount the backup of db at south",
        "place": "south, from the backup",
        "waits": True,
        "violations": [],
        "too_short": ["F19", "F3"],
        "file": True,
        "forecast": 20,
        "audited": ["mount", "restore"],
        "text": True,
        "chart": ["mount"],
        "runbook": ["mount the backup of the store and start its engine there: db"],
        "timeline": ["db runs from its mounted backup in anyang"],
        "run": [
            "mount",
            True,
            "mounting db may lose its newest writes, up to 3600 s, declared in the estate; never measured",
        ],
    }
