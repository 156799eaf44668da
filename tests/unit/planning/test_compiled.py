"""Compiled kernels are kept apart for each state of what is compiled into them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evac.planning.compiled import PROGRESS, kept_in

INNER = "from numba import njit\nSTEP = {step}\n\n@njit\ndef inner(x):\n    return x + STEP\n"
OUTER = """from evac.planning.compiled import kernel
from evac.planning.inner import inner

@kernel
def outer(x):
    return inner(x)
"""
CALLS = """import numpy as np
from evac.planning.compiled import inner, kernel

@inner
def weighed(x, times):
    return x * times + 1

@inner
def twice(x):
    if x < 0:
        return 0
    return weighed(x, 2)

@kernel
def outer(x):
    narrow = np.int32(x)
    return weighed(x, 3) + weighed(x, 5) + weighed(narrow, x) + weighed(7, narrow) + twice(x) + twice(-x)

if __name__ == "__main__":
    print(outer(100_000), weighed.compiled.signatures, twice.compiled.signatures)
"""
INNERS = """from evac.planning.compiled import inner, kernel

@inner
def successor(x):
    if x < 0:
        raise ValueError("below zero")
    return x + 1

@inner
def twice(x):
    return successor(x) * 2

@kernel
def outer(x):
    return twice(x)

@kernel
def outermost(x):
    return outer(x) + twice(x)

def tell():
    print([outer(20), outermost(20)])
    for one in (outer, outermost):
        try:
            one(-1)
        except ValueError as error:
            print(error)
    alone = [one.compiled.overloads.values() for one in (successor, twice)]
    print([name.name for found in alone for one in found for name in one.library.get_defined_functions()])
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A kernel, and another one in another file that is compiled into it; the decorators are evac's."""
    found = tmp_path / "evac"
    (found / "planning").mkdir(parents=True)
    for capacity in (found, found / "planning"):
        (capacity / "__init__.py").write_text("")
    source = Path(str(sys.modules["evac.planning.compiled"].__file__))
    for name in ("compiled.py", "compiling.py"):
        (found / "planning" / name).write_text((source.parent / name).read_text("utf-8"), "utf-8")
    (found / "planning/inner.py").write_text(INNER.format(step=1))
    (found / "planning/outer.py").write_text(OUTER)
    (found / "planning/beside.py").write_text("HELLO = 1\n")
    return found


def answer(package: Path, first: str = "", **env: str) -> str:
    code = f"{first}from evac.planning.outer import outer; print(outer(40))"
    where = {**os.environ, "PYTHONPATH": str(package.parent), **env}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=where, check=True, timeout=120
    )
    return done.stdout.strip()


def folders(base: Path) -> list[Path]:
    return sorted(base.glob("kernels-*"))


def test_a_kernel_that_another_one_calls_is_compiled_anew_when_it_changes(
    package: Path, tmp_path: Path
) -> None:
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert answer(package, **kept) == "41"
    (package / "planning/inner.py").write_text(INNER.format(step=2))
    assert answer(package, **kept) == "42", "numba alone goes on with what it has"
    assert len(folders(tmp_path / "kept")) == 2


def test_the_same_sources_have_one_folder_and_a_change_beside_the_kernels_makes_none(
    package: Path, tmp_path: Path
) -> None:
    base = tmp_path / "kept"
    first = kept_in((base,), package)
    (package / "planning/beside.py").write_text("HELLO = 2\n")
    assert kept_in((base,), package) == first
    for step in (2, 3, 4):
        (package / "planning/inner.py").write_text(INNER.format(step=step))
        last = kept_in((base,), package)
        assert last is not None
        assert last in folders(base)
        assert len(folders(base)) == 2, "those that run on read theirs"


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_holds_no_kernels(package: Path, tmp_path: Path, mode: int) -> None:
    """Anyone who can put a file there would run code in the process that loads kernels."""
    shared, private = tmp_path / "shared", tmp_path / "private"
    planted = kept_in((shared,), package)
    assert planted is not None
    assert planted.stat().st_mode & 0o777 == 0o700
    planted.chmod(mode)
    assert kept_in((shared, private), package) == private / planted.name
    assert kept_in((shared,), package) is None


def test_processes_that_begin_at_the_same_time_share_one_folder(package: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            bases = (tmp_path / f"kept-{turn}", tmp_path / "elsewhere")
            found = set(pool.map(lambda _: kept_in(bases, package), range(8)))  # noqa: B023
            assert found == {folders(bases[0])[0]}


def test_a_user_without_a_home_has_kernels_all_the_same(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    beside = package / "planning/__pycache__"
    code = "import pwd; pwd.getpwuid = {}.__getitem__\n"
    assert answer(package, code) == "41"
    assert len(folders(beside)) == 1


def test_where_the_first_place_cannot_be_written_the_next_is_taken(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = kept_in((tmp_path / "file", tmp_path / "next"), package)
    assert found is not None
    assert found.parent == tmp_path / "next"
    assert kept_in((tmp_path / "file",), package) is None


SMALL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
"""No file may grow, as on a full disk."""


def test_a_full_disk_delays_nobody_and_is_said_once(package: Path, tmp_path: Path) -> None:
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    (package / "planning/outer.py").write_text(f"{OUTER}\n\n@kernel\ndef more(x):\n    return outer(x) + 1\n")
    code = f"{SMALL}from evac.planning.outer import more, outer; print(outer(40), more(40), outer(40.5))"
    done = said(package, code, **kept)
    assert done.stdout.split() == ["41", "42", "41.5"]
    assert done.stderr.count("cannot be cached") == 1, done.stderr
    assert f"{tmp_path}/kept/kernels-" in done.stderr
    assert "File too large" in done.stderr
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []
    assert answer(package, **kept) == "41", "with capacity again it is kept"
    assert {path.suffix for path in (tmp_path / "kept").rglob("*") if path.is_file()} == {".nbi", ".nbc"}


def test_where_not_even_a_folder_can_be_made_nothing_is_kept_apart_from_its_state(
    package: Path, tmp_path: Path
) -> None:
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert answer(package, **kept) == "41"
    (home,) = folders(tmp_path / "kept")
    for folder in home.iterdir():
        shutil.rmtree(folder)
        folder.write_text("")
    done = said(package, "from evac.planning.outer import outer; print(outer(40))", **kept)
    assert done.stdout.strip() == "41"
    assert done.stderr.count("cannot be cached") == 1, done.stderr
    assert not list(package.rglob("*.nb?")), "numba alone goes to the folder beside the source"


def said(package: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    where = {**os.environ, "PYTHONPATH": str(package.parent), **env}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=where, check=True, timeout=120
    )


def test_what_kernels_call_is_compiled_once_whatever_whole_numbers_they_pass(package: Path) -> None:
    """A constant, 32 bits or 64: one machine code, which gives what Python gives."""
    x = 100_000
    expected = sum(a * b + 1 for a, b in ((x, 3), (x, 5), (x, x), (7, x), (x, 2)))
    (package / "planning/calls.py").write_text(CALLS)
    done = subprocess.run(
        [sys.executable, "-m", "evac.planning.calls"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"{expected} [(int64, int64)] [(int64,)]"), (
        done.stderr
    )


def test_what_only_kernels_call_is_machine_code_within_the_kernels_that_python_calls(
    package: Path, tmp_path: Path
) -> None:
    """Compiled, loaded, and compiled again next to one that is loaded, with the errors that it raises."""
    (package / "planning/inners.py").write_text(INNERS)
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    code = "from evac.planning.inners import tell; tell()"
    for lost in ((), (), ("outermost",), ("outer", "outermost")):
        for path in (tmp_path / "kept").rglob("*.nb?"):
            if any(path.name.startswith(f"inners.{name}-") for name in lost):
                path.unlink()
        lines = said(package, code, **kept).stdout.splitlines()
        assert lines == ["[42, 84]", "below zero", "below zero", "[]"], lost
        assert {path.name.split("-")[0] for path in (tmp_path / "kept").rglob("*.nbi")} == {
            "inners.outer",
            "inners.outermost",
        }


COUNT = """
from llvmlite import binding
read = []
parse = binding.parse_bitcode
binding.parse_bitcode = lambda *args: read.append(1) or parse(*args)
"""


def test_intermediate_code_of_a_loaded_kernel_is_read_for_one_that_is_compiled_with_it(
    package: Path, tmp_path: Path
) -> None:
    """numba by itself reads it whenever a kernel is loaded, which takes most of that time."""
    more = "from evac.planning.compiled import kernel\nfrom evac.planning.outer import outer\n"
    (package / "planning/beside.py").write_text(
        f"{more}\n\n@kernel\ndef double(x):\n    return 2 * outer(x)\n"
    )
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert answer(package, **kept) == "41"
    loaded = f"{COUNT}from evac.planning.outer import outer; print(outer(40), len(read))"
    assert said(package, loaded, **kept).stdout.split() == ["41", "0"]
    both = f"{COUNT}from evac.planning.beside import double, outer; print(outer(40), len(read), double(40)"
    assert said(package, f"{both}, len(read) > 0)", **kept).stdout.split() == ["41", "0", "82", "True"]
    assert said(package, f"{both}, len(read))", **kept).stdout.split() == ["41", "0", "82", "0"]


def test_a_kernel_without_a_file_of_its_own_is_counted_when_it_is_compiled(
    package: Path, tmp_path: Path
) -> None:
    (package / "planning/inners.py").write_text(INNERS)
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    for _ in ("compiled", "loaded"):
        said(package, "from evac.planning.inners import outer; outer(20)", **kept)
        (home,) = folders(tmp_path / "kept")
        assert (home / PROGRESS).stat().st_size == 2
