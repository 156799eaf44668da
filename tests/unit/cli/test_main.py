"""The command line: exit codes, words on stderr, data on stdout, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac import audit as audits
from evac import estate as estates
from evac.cli import console, program
from evac.cli.main import run
from evac.cli.plan_command import _accepted
from evac.model import errors
from evac.run.values import RunPhase
from evac.verify import Verdict
from evac.verify.reading import Violation
from evac.views.json_out import AUDIT_SCHEMA


@pytest.fixture
def small(project_root: Path) -> str:
    return str(project_root / "tests" / "fixtures" / "estates" / "small")


def test_an_address_in_use_is_no_matter_of_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    program._system_error(OSError(errno.EADDRINUSE, "Address already in use"))
    assert "next: end the process that listens there" in capsys.readouterr().err
    program._system_error(OSError(errno.ENOSPC, "No space left on device", "/var/x"))
    assert "/var/x: No space left on device [system-error]\nnext: check the path" in capsys.readouterr().err


def test_help_imports_no_heavy_library() -> None:
    code = "import sys; from evac.cli.main import run; run(['--help']); print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    assert not loaded & {"numpy", "numba", "pydantic", "highspy", "rich", "polars", "jinja2", "yaml"}


@given(st.floats(0, 1), st.floats(0, 1e6))
def test_the_time_left_is_as_long_as_what_is_done_took_for_its_share(share: float, elapsed_s: float) -> None:
    words = console.time_left(share, elapsed_s)
    assert bool(words) == (share >= 0.001)
    assert share < 1 or words == "about 0 s left"


def test_an_estimate_comes_with_the_first_step_of_a_command() -> None:
    assert console.time_left(0.0, 30.0) == ""
    assert console.time_left(0.25, 30.0) == "about 1 min 30 s left"
    assert console.time_left(0.5, 30.0) == "about 30 s left"


def test_an_audit_says_after_each_loss_how_much_is_done(small: str) -> None:
    told: list[tuple[float, str]] = []
    report = audits.audit(estates.load(Path(small)), progress=lambda *step: told.append(step))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] < 1
    trying = {share for share, words in told if words.startswith("trying ")}
    assert len(trying) == sum(method == "plan" for method in report.impacts.methods) > 1


@pytest.mark.parametrize(
    "command", ["schema estate", "check SMALL", "backup status SMALL", "status", "run list"]
)
def test_who_only_looks_loads_no_controller_and_no_planner(command: str, small: str, tmp_path: Path) -> None:
    code = "import sys; from evac.cli.main import run; print(run(sys.argv[1:]), *sorted(sys.modules))"
    words = [sys.executable, "-c", code, *command.replace("SMALL", small).split()]
    env = {**os.environ, "EVAC_STORE": f"sqlite:{tmp_path / 'store.sqlite'}"}
    out = subprocess.run(words, capture_output=True, text=True, check=True, env=env).stdout
    done, *loaded = out.splitlines()[-1].split()
    assert int(done) == console.DONE
    heavy = {
        "evac.engine.lead.controller",
        "evac.app.planner.plans",
        "evac.planning.plan",
        "evac.app.applying",
        "evac.verify",
        "numba",
        "highspy",
    }
    assert not set(loaded) & heavy
    if command == "run list":  # it opens no estate
        assert not set(loaded) & {"numpy", "yaml"}


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("example", "import", "check", "schema", "audit", "plan", "verify", "simulate"):
        assert run([name, "--help"]) == console.DONE
    assert "Usage: evac simulate" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["lab"])
def test_a_command_of_an_extra_names_it_where_it_is_not_installed(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([command, "--help"]) == console.DONE
    capsys.readouterr()
    monkeypatch.setattr(program, "ENTRY_POINTS", "evac.commands.of-nobody")
    assert run([command, "--help"]) == console.USAGE
    assert capsys.readouterr().err.splitlines() == [
        f"error: evac {command} needs extra packages: pip install 'evac[lab]' [extra-lab]",
    ]
    assert run(["--help"]) == console.DONE
    assert f"  {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["check"],
        ["plan", "x", "--budget", "soon"],
        ["audit", "x", "--nope"],
        ["plan", "x", "--budget", "5"],
        ["plan", "tests", "--lose", "x", "--budget", "2d"],
        ["bundle", "tests", "-o", "x", "--budget", "25h"],
        ["lab", "october-2022", "--budget", "5"],
        ["lab", "october-2022", "--budget", "11m"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == console.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
@pytest.mark.parametrize("command", [("plan", "shop", "--lose", "x"), ("simulate", "p.json", "shop")])
def test_a_seed_that_no_generator_takes_is_wrong_usage(
    command: tuple[str, ...], seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--seed", seed]) == console.USAGE
    assert "--seed" in capsys.readouterr().err


def test_a_pipe_is_written_to_and_a_link_stays_one(small: str, tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert run(["check", small, "-o", str(pipe)]) == 0
    assert b"well formed" in os.read(reader, 1 << 16)
    os.close(reader)
    assert pipe.is_fifo()
    assert run(["check", small, "-o", str(link)]) == 0
    assert link.is_symlink()
    assert "well formed" in target.read_text()


def test_what_a_command_writes_is_for_its_owner_only(small: str, tmp_path: Path) -> None:
    """Whatever the mask of the process; a file that others may read already stays as it is."""
    target, shared = tmp_path / "report", tmp_path / "shared"
    shared.touch(0o640)
    mask = os.umask(0)
    try:
        for path in (target, shared, target):
            assert run(["check", small, "-o", str(path)]) == 0
    finally:
        os.umask(mask)
    assert [path.stat().st_mode & 0o777 for path in (target, shared)] == [0o600, 0o640 & ~mask]


def test_a_misspelt_command_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pln"]) == console.USAGE
    assert "Did you mean 'plan'?" in capsys.readouterr().err


def test_a_missing_estate_is_2_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(tmp_path / "none"), "--lose", "x"]) == console.USAGE
    assert "none" in capsys.readouterr().err


def test_check_says_what_is_there(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", small]) == console.DONE
    assert "20 services" in capsys.readouterr().out


def test_an_import_into_a_folder_that_is_no_estate_afterwards_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts, target = tmp_path / "hosts.csv", tmp_path / "company"
    hosts.write_text("host,site,cores,app\nh1,x,4,shop\nh2,y,4,shop\n")
    target.mkdir()
    (target / "estate.yaml").write_text("evac: 1\nname: mine\nsites: {x: {}}\nservices: {shop: {tier: 1}}\n")
    words = ["import", "csv", str(hosts), "-o", str(target), "--quiet"]
    assert run(words) == console.USAGE
    said = capsys.readouterr().err
    assert "estate.yaml:" in said or "imported-csv.yaml:" in said
    assert "[import-not-whole]" in said
    assert f"next: fix these lines, then run evac check {target}" in said
    assert run(["check", str(target)]) == console.USAGE
    (target / "estate.yaml").unlink()
    assert run(words) == console.DONE


def test_an_estate_without_a_site_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "estate.yaml").write_text("evac: 1\nname: mine\n")
    run(["plan", str(tmp_path), "--lose", "x"])
    assert "the estate has no sites yet: add one under sites:" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "sarif", "junit", "github", "markdown"])
def test_check_in_every_format(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.yaml").write_text("evac: 1\nname: e\nsites: {a: {}}\nservices:\n  s: {needs: [nobody]}\n")
    assert run(["check", str(tmp_path / "e.yaml"), "--output", form]) == console.USAGE
    assert "nobody" in capsys.readouterr().out


def test_schema_is_json(tmp_path: Path) -> None:
    target = tmp_path / "schema.json"
    assert run(["schema", "-o", str(target)]) == console.DONE
    assert json.loads(target.read_text())["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_folder_that_a_command_creates_is_named(
    quiet: list[str], small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "deep" / "audit.md"
    run(["audit", small, "--output", "markdown", "-o", str(target), *quiet])
    assert target.is_file()
    assert ("created the folder " in capsys.readouterr().err) != bool(quiet)
    run(["audit", small, "--output", "markdown", "-o", str(target), *quiet])
    assert "created the folder " not in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[" * 100_000, b'{"kind":"evac-plan","schema_version":99}', b"\xff\xfe", b'{"kind":1e400}'],
)
def test_what_is_no_plan_is_refused(
    small: str, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.json").write_bytes(content)
    assert run(["verify", str(tmp_path / "p.json"), small]) == console.USAGE
    err = capsys.readouterr().err
    assert "[plan-" in err
    assert "Traceback" not in err


def test_a_folder_is_no_plan(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path), small]) == console.USAGE
    assert "plan-missing" in capsys.readouterr().err


def test_a_mistake_of_our_own_is_said_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evac.cli.program.cli.main", lambda **_: 1 / 0)
    monkeypatch.delenv("EVAC_DEBUG", raising=False)
    assert run(["check", "x"]) == console.FAILED
    err = capsys.readouterr().err
    assert "internal-error" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EstateError(()), 2),
        (errors.UnknownDomain("c", "m"), 2),
        (errors.InvalidInput("c", "m"), 2),
        (errors.UnsafePlan("c", "m"), 10),
        (errors.StalePlan("c", "m"), 12),
        (errors.PlanError("c", "m"), 1),
        (errors.EvacError("c", "m"), 1),
    ],
)
def test_each_kind_of_error_has_its_code(error: errors.EvacError, code: int) -> None:
    assert console.exit_code(error) == code


@pytest.mark.parametrize(
    ("phase", "held", "code"),
    [
        ("running", False, 0),
        ("running", True, 13),
        ("paused", False, 13),
        ("awaiting_approval", True, 13),
        ("succeeded", True, 0),
        ("cancelled", True, 1),
        ("failed", True, 14),
    ],
)
def test_a_run_that_waits_for_a_person_is_13_also_while_a_hold_stands(
    phase: RunPhase, held: bool, code: int
) -> None:
    assert console.run_exit_code(phase, True, False, held) == code
    assert console.run_exit_code(phase, True, True, held) == console.UNKNOWN


def test_what_was_seen_is_a_key_and_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("anyang", "primary=", "=anyang"):
        words = ["run", "attest", "r", "s", "--seen", wrong, "--reason", "x", "--store", "memory:"]
        assert run(words) == console.USAGE
        assert "KEY=VALUE" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(small: str) -> None:
    command = f"{Path(sys.executable).parent / 'evac'} schema | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_a_plan_says_which_stores_it_could_not_observe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "estate.yaml").write_text(
        "evac: 2\nname: quay\nsites: {a: {}, b: {}}\n"
        "stores: {orders: {members: [{at: a, mode: primary}, {at: b, mode: sync}]}}\n"
    )
    words = "not observed: orders; for these, the primaries in the estate's files count"
    plan = ["plan", str(tmp_path), "--lose", "a", "--budget", "0s", "-o", str(tmp_path / "p.json")]
    run([*plan, "--observe"])
    assert words in capsys.readouterr().err
    run(plan)
    assert words not in capsys.readouterr().err


def test_an_estate_that_is_not_there_is_not_told_to_fix_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", str(tmp_path / "nothing")]) == console.USAGE
    assert "next: give the folder of an estate, or create one: evac init FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plan.html", "plan.pdf"])
def test_a_plan_is_not_written_into_the_file_of_a_page(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    target = tmp_path / name
    asked = ["plan", small, "--lose", "hill", "--output", "html", "-o", str(target)]
    assert run(asked) == console.USAGE
    said = capsys.readouterr()
    assert (said.out, list(tmp_path.iterdir())) == ("", [])
    assert f"for a page: --report {target}; for the plan: -o {tmp_path / 'plan.json'}" in said.err


def test_a_full_disk_leaves_nothing_half_written(small: str, tmp_path: Path) -> None:
    target = tmp_path / "schema.json"
    target.write_text("old")
    command = f"ulimit -f 1; {Path(sys.executable).parent / 'evac'} schema -o {target}"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode != 0
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["schema.json"]
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def planned(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An estate and a plan made from it by the command line."""
    estate = str(project_root / "tests" / "fixtures" / "estates" / "small")
    target = tmp_path_factory.mktemp("plans") / "plan.json"
    assert run(["plan", estate, "--lose", "hill", "--budget", "1s", "-o", str(target), "-q"]) == console.DONE
    return estate, str(target)


def test_a_plan_is_made_verified_and_simulated(
    planned: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    estate, plan = planned
    assert run(["verify", plan, estate]) == console.DONE
    assert "The plan is valid" in capsys.readouterr().out
    assert run(["simulate", plan, estate, "--trials", "20", "--output", "json"]) == console.DONE
    assert json.loads(capsys.readouterr().out)["kind"] == "evac-simulation"


def test_budgets_are_durations_and_none_needs_no_unit(
    planned: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both commands that plan take the same words."""
    from evac_lab.october import story

    told: list[int] = []

    def october(setting: story.Setting, tell: object) -> None:
        told.append(setting.budget_ms)
        raise errors.InvalidInput("told", "that is all")

    monkeypatch.setattr(story, "october", october)
    plans = []
    for number, words in enumerate(("0", "00", "0s", "0 ms")):
        target = tmp_path / f"{number}.json"
        assert run(["plan", planned[0], "--lose", "hill", "--budget", words, "-o", str(target), "-q"]) == 0
        plans.append(target.read_bytes())
        run(["lab", "october-2022", "-o", str(tmp_path / "october"), "--budget", words])
    assert len(set(plans)) == 1
    run(["lab", "october-2022", "-o", str(tmp_path / "october")])
    run(["lab", "october-2022", "-o", str(tmp_path / "october"), "--budget", "2m"])
    assert told == [0, 0, 0, 0, 5_000, 120_000]


def test_a_plan_of_another_estate_is_stale(
    planned: tuple[str, str], project_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(project_root / "tests" / "fixtures" / "estates" / "first")
    assert run(["verify", planned[1], other]) == console.STALE
    assert run(["simulate", planned[1], other]) == console.STALE
    assert capsys.readouterr().err.count("plan-stale") == 2


def test_an_altered_plan_is_refused(
    planned: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(Path(planned[1]).read_text())
    document["objective"] -= 1000
    (tmp_path / "p.json").write_text(json.dumps(document))
    assert run(["verify", str(tmp_path / "p.json"), planned[0]]) == console.REFUSED
    assert "F19" in capsys.readouterr().out
    assert run(["simulate", str(tmp_path / "p.json"), planned[0]]) == console.REFUSED
    assert "F19" in capsys.readouterr().err


@pytest.mark.parametrize(
    "way", [[], ["--execute", "--reason", "fire", "--confirm", "hill"]], ids=["dry", "execute"]
)
def test_an_altered_plan_is_not_applied(
    way: list[str], planned: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(Path(planned[1]).read_text())
    document["objective"] -= 1000
    altered, store = tmp_path / "p.json", tmp_path / "evac.sqlite"
    altered.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n")
    assert run(["apply", str(altered), planned[0], "--store", f"sqlite:{store}", *way]) == console.REFUSED
    said = capsys.readouterr().err
    assert "the checker does not accept this plan: F19" in said
    assert "[plan-wrong]" in said
    assert "evac verify" in said
    assert run(["run", "list", "--store", f"sqlite:{store}", "--output", "json"]) == console.DONE
    assert json.loads(capsys.readouterr().out)["runs"] == []


def test_a_store_that_is_none_is_refused_before_a_dry_run(
    planned: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["apply", planned[1], planned[0], "--store", "nonsense:x"]) == console.FAILED
    assert "is not the address of a store" in capsys.readouterr().err
    assert run(["apply", planned[1], planned[0], "--store", f"sqlite:{tmp_path}/none/x"]) == console.FAILED
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "sarif", "junit", "github", "markdown", "html"])
def test_audit_in_every_format(
    form: str, planned: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", planned[0], "--output", form, "--fail-on", "never"]) == console.DONE
    out = capsys.readouterr().out
    assert out
    if form == "json":
        jsonschema.validate(json.loads(out), AUDIT_SCHEMA)


@pytest.mark.parametrize("more", ["", "sites: {a: {}}"])
@pytest.mark.parametrize("fail_on", ["error", "never"])
def test_an_estate_in_which_nothing_can_fail_is_not_audited(
    more: str, fail_on: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty list of findings would look like a clean estate."""
    (tmp_path / "estate.yaml").write_text(f"evac: 1\n{more}\n", encoding="utf-8")
    assert run(["audit", str(tmp_path), "--fail-on", fail_on]) != console.DONE
    told = capsys.readouterr().err
    assert "describes no service" in told
    assert "next: " in told
    assert "Traceback" not in told


def test_a_baseline_lets_only_new_findings_fail(planned: tuple[str, str], tmp_path: Path) -> None:
    base = str(tmp_path / "base.json")
    assert run(["audit", planned[0], "--write-baseline", base, "--fail-on", "never", "-q"]) == console.DONE
    assert run(["audit", planned[0], "--fail-on", "note", "-q"]) == console.FINDINGS
    assert run(["audit", planned[0], "--baseline", base, "--fail-on", "note", "-q"]) == console.DONE


@pytest.mark.parametrize("share", range(1, 10))
def test_an_interrupt_while_modules_are_read_leaves_no_trace(share: int, small: str) -> None:
    """Interrupted at the first import after the entry point, and then later and later."""
    code = (
        "import os, signal, sys\n"
        "seen = 0\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        global seen\n"
        "        seen += 1\n"
        f"        if seen == {share * share * 4}: os.kill(os.getpid(), signal.SIGINT)\n"
        "from evac.cli.main import main\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        f"main(['check', {small!r}])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == console.INTERRUPTED, found.stderr
    assert "Traceback" not in found.stderr


def test_without_a_place_for_words_it_still_works(small: str) -> None:
    """Started with its outputs closed, as some schedulers do."""
    closed = [sys.executable, "-c", "from evac.cli.main import main; main()", "check", small]
    for streams in (">&-", "2>&-", ">&- 2>&-"):
        command = ["sh", "-c", f'exec "$@" {streams}', "sh", *closed]
        assert subprocess.run(command, capture_output=True, check=False).returncode == console.DONE, streams


def test_a_reader_that_goes_away_is_no_error(project_root: Path) -> None:
    command = f"{sys.executable} -c 'from evac.cli.main import main; main()' schema | head -1"
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (console.DONE, "{\n", "")


def test_a_plan_that_the_checker_refuses_never_passes_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Verdict((Violation("F16", "batch", "could have stayed on s1"),) * 3, 0, 0, 5)
    assert _accepted(wrong, Path("plan.json"), "estate") == console.REFUSED
    said = capsys.readouterr().err
    assert "F16 batch: could have stayed on s1, and 2 more [plan-wrong]" in said
    assert "evac verify plan.json estate" in said
    assert _accepted(replace(wrong, violations=()), None, "estate") == console.DONE
    assert capsys.readouterr().err == ""
