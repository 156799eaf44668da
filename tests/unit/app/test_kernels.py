"""Kernels run as plain Python where that answers first; else they are compiled, and it is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import evac
from evac.app.planner import kernels as chosen
from evac.app.planner.kernels import COMPILING_S, LOADING_S, PATIENCE_S, audit_s, kernels, search_s
from evac.cli import console
from evac.estate.examples import pangyo
from evac.model import extras
from evac.model.errors import InvalidInput
from evac.model.estate import Estate, Pool, Site
from evac.model.fleet import AT_SITE, ON_POOL
from evac.model.plan import Outcome
from evac.model.scenario import Scenario
from evac.planning import compiled, plan
from evac.planning.compiled import kernels_are_kept, note_complete
from tests.unit.audit.estates import bindings, service
from tests.unit.planning.instances import worked_example


class Machine:
    """What is there: a compiler, kernels that are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiler, self.kept, self.compiled = True, False, 0
        monkeypatch.setattr(compiled._Now, "plain", False)
        monkeypatch.setattr(extras, "is_installed", lambda extra: self.compiler)
        monkeypatch.setattr(chosen, "kernels_are_kept", lambda: Path() if self.kept else None)
        monkeypatch.setattr(chosen, "compile_all", self._compile)

    def _compile(self, report: chosen.Report) -> None:
        self.compiled += 1
        report("compiling")

    def runs_plain(self, seconds: float, said: list[str] | None = None) -> bool:
        with kernels(seconds, [].append if said is None else said.append):
            return compiled._Now.plain


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_what_is_small_waits_for_no_compiler(machine: Machine) -> None:
    assert machine.runs_plain(COMPILING_S - 1)
    assert machine.compiled == 0
    assert not compiled._Now.plain, "only within"


def test_what_is_large_is_compiled_first(machine: Machine) -> None:
    assert not machine.runs_plain(COMPILING_S + 1)
    assert machine.compiled == 1


def test_kernels_that_are_kept_are_used_for_all_but_the_smallest(machine: Machine) -> None:
    machine.kept = True
    assert machine.runs_plain(LOADING_S - 1)
    assert not machine.runs_plain(LOADING_S + 1)
    assert machine.compiled == 0


def test_without_a_compiler_everything_runs_until_it_would_take_too_long(machine: Machine) -> None:
    machine.compiler = False
    said: list[str] = []
    assert machine.runs_plain(COMPILING_S - 1, said)
    assert said == []
    assert machine.runs_plain(COMPILING_S + 1, said)
    assert said == ["no compiled kernels: this takes about 31 s; faster with: pip install 'evac[large]'"]
    with pytest.raises(InvalidInput) as caught:
        machine.runs_plain(PATIENCE_S + 60)
    assert caught.value.code == "extra-large"
    assert "pip install 'evac[large]'" in caught.value.message


def test_a_search_takes_as_long_as_its_work_is_long() -> None:
    short, long = search_s(worked_example(), 10), search_s(worked_example(), 100_000)
    assert 0 < short < LOADING_S
    assert long > 100 * short


class Foreseen:
    """A plan of one loss that takes a stated time, and the losses that it was asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.takes_s, self.now_s, self.lost = 0.0, 0.0, list[tuple[str, ...]]()
        monkeypatch.setattr(plan, "foresee", self._foresee)
        monkeypatch.setattr(chosen.time, "process_time", lambda: self.now_s)

    def _foresee(self, estate: Estate, scenario: Scenario) -> tuple[Outcome, ...]:
        assert compiled._Now.plain, "nothing may compile yet"
        self.lost.append(scenario.domains)
        self.now_s += self.takes_s
        return ()


@pytest.fixture
def foreseen(monkeypatch: pytest.MonkeyPatch) -> Foreseen:
    return Foreseen(monkeypatch)


def test_an_audit_compiles_only_if_the_plan_of_one_loss_is_slow(
    machine: Machine, foreseen: Foreseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    thousand = pangyo(servers=1_000)
    machine.kept = True
    worst_s = audit_s(thousand, (), False)
    assert worst_s > COMPILING_S
    assert foreseen.lost == []
    machine.kept = False
    foreseen.takes_s = 0.01
    assert 0 < audit_s(thousand, (), False) < COMPILING_S
    foreseen.takes_s = 60.0
    assert audit_s(thousand, (), False) == worst_s
    foreseen.lost.clear()
    monkeypatch.setattr(chosen, "PLAN_S", 1.0)
    assert audit_s(thousand, (), False) > worst_s
    assert foreseen.lost == [], "it may take as long as compiling"


def test_the_plan_that_is_timed_is_that_of_the_site_with_most_replicas(
    machine: Machine, foreseen: Foreseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without servers, where the first site runs nothing; and not of one that is lost already."""
    monkeypatch.setattr(chosen, "PLAN_S", 1.0)
    pools = tuple(Pool(f"{site}-pool", site) for site in ("north", "south", "west"))
    estate = Estate(
        "pools",
        sites=(Site("arbiter", "witness"), *(Site(pool.site) for pool in pools)),
        pools=pools,
        services=(*map(service, ("shop", "wiki")), service("unplaced", replicas=None)),
    )
    rows = [("shop", ON_POOL, "north-pool", 2), ("shop", ON_POOL, "south-pool", 3)]
    placed = replace(estate, replicas=bindings(estate, [*rows, ("wiki", AT_SITE, "west", 4)]))
    foreseen.takes_s = 3.0
    for lost, expected in (((), "west"), (("west",), "south"), (("west", "south"), "north")):
        foreseen.lost.clear()
        audit_s(replace(placed, lost=lost), (), True)
        assert set(foreseen.lost) == {(expected,)}
    foreseen.lost.clear()
    worst_s = audit_s(estate, (), True)
    assert audit_s(replace(placed, lost=("north", "south", "west")), (), True) == worst_s
    assert foreseen.lost == [], "nothing is known to be anywhere"


def test_progress_says_how_many_how_long_and_where() -> None:
    line = chosen._progress(0, 12, 48, 20.0, Path("/kept"))
    assert line == "compiling planner kernels: 12 of 48, about 60 s left; kept in /kept"
    assert "about 90 s left" in chosen._progress(0, 0, 48, 0.0, Path("/kept"))


def test_the_kernels_of_audit_and_planner_are_counted() -> None:
    assert 50 < chosen._count_kernels() < 500


def test_a_folder_is_complete_for_the_machine_that_compiled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert kernels_are_kept() is None
    note_complete()
    assert kernels_are_kept() in list(tmp_path.iterdir())
    monkeypatch.setattr(compiled, "_machine", lambda: "another processor")
    assert kernels_are_kept() is None


def test_where_nothing_shows_a_live_line_one_is_written_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    report = console.reporter(lambda share, words: None, quiet=False)
    for second in range(25):
        now[0] = float(second)
        report(f"line {second}")
    assert capsys.readouterr().err.split("\n") == ["line 0", "line 10", "line 20", ""]
    console.reporter(lambda share, words: None, quiet=True)("quiet")
    assert capsys.readouterr().err == ""


def test_every_extra_names_itself_for_the_modules_that_it_brings() -> None:
    assert extras.extra_of("asyncpg.connection") == "postgres"
    assert extras.extra_of("uvicorn") == "serve"
    assert extras.extra_of("evac.nowhere") == ""
    assert extras.needs("serve", "evac serve").message == (
        "evac serve needs extra packages: pip install 'evac[serve]'"
    )


def test_progress_counts_what_is_kept_and_what_this_compilation_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier one that was interrupted kept only the kernels in files."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = compiled.kept_in((tmp_path,), Path(str(evac.__file__)).parent)
    assert folder is not None
    assert chosen._count_compiled(folder) == 0
    (folder / "one.nbi").touch()
    (folder / compiled.PROGRESS).write_bytes(b"." * 7)
    assert chosen._count_compiled(folder) == 8

    def compile_two(report: chosen.Report, tell: Callable[[], None]) -> None:
        (folder / compiled.PROGRESS).write_bytes(b"..")
        tell()

    monkeypatch.setattr(chosen, "_compile", compile_two)
    lines: list[str] = []
    chosen.compile_all(lines.append)
    assert [line.split(" of ")[0].rpartition(" ")[2] for line in lines] == ["8", "3"]
