"""Hostile input gets a clear error, quickly and in little memory, and never a traceback."""

import io
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from evac.estate import check
from evac.estate.format import document as source_files
from evac.estate.format.document import open_text, read_bytes
from evac.estate.format.problems import Problems
from evac.estate.importers import SourceError, import_estate
from evac.estate.importers.discovery import look_around

SECONDS_MAX = 5.0
MEMORY_MIB_MAX = 200


def codes(path: Path) -> list[str]:
    return [d.code for d in check(path).diagnostics]


def timed(path: Path) -> list[str]:
    start = time.process_time()
    found = codes(path)
    assert time.process_time() - start < SECONDS_MAX
    return found


def estate(folder: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    (folder / "estate.yaml").write_bytes(data)
    return folder


def bomb(levels: int) -> str:
    lines = ["evac: 1", "name: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join(lines)


HOSTILE: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "ten levels of anchors": (lambda: bomb(10), "too-many-values"),
    "merge keys on merge keys": (
        lambda: (
            "a0: &a0 {x: 1}\n"
            + "".join(f"a{k}: &a{k} {{<<: [{','.join([f'*a{k - 1}'] * 9)}]}}\n" for k in range(1, 12))
        ),
        "too-many-values",
    ),
    "aliases without end on many lines": (lambda: "a: &a x\nb:\n" + "  - *a\n" * 30_000, "too-many-aliases"),
    "an alias of itself": (lambda: "a: &a [*a]", "alias-loop"),
    "a hundred thousand brackets": (lambda: "a: " + "[\n" * 100_000, "too-deep"),
    "a hundred thousand braces": (lambda: "{" + "a: {\n" * 100_000, "too-deep"),
    "deep block lists": (lambda: "a:\n" + "".join(" " * k + "-\n" for k in range(1, 200)), "too-deep"),
    "three million values": (lambda: "a:\n" + "- 1\n" * 3_000_000, "too-many-values"),
    "a NUL byte": (lambda: "evac: 1\nname: a\0b\n", "nul-byte"),
    "not UTF-8": (lambda: b"evac: 1\nname: \xff\xfe\n", "not-utf-8"),
    "UTF-16": (lambda: "evac: 1\n".encode("utf-16"), "not-utf-8"),
    "a lone surrogate": (lambda: b"evac: 1\nname: \xed\xa0\x80\n", "not-utf-8"),
    "a control character": (lambda: "evac: 1\nname: a\x07b\n", "yaml-syntax"),
    "a list of nothing": (lambda: "- \n- \n", "wrong-type"),
    "one word": (lambda: "hello", "wrong-type"),
    "a digit bomb": (lambda: "evac: 1\nservices: {x: {people: " + "9" * 4_000 + "}}", "not-a-number"),
    "a key bomb": (lambda: "evac: 1\n" + "".join(f"key{k}: 1\n" for k in range(50_000)), "more-problems"),
    "an anchor bomb": (
        lambda: "evac: 1\nfacts:\n" + "".join(f"  x{k}: &a{k} {{}}\n" for k in range(50_000)),
        "more-problems",
    ),
    "groups in a ring": (
        lambda: (
            "evac: 1\nsites: {a: {}}\ngroups:\n"
            + "".join(f"  g{k}: {{members: [g{(k + 1) % 3_000}]}}\n" for k in range(3_000))
        ),
        "group-cycle",
    ),
    "a long value": (lambda: "evac: 1\nname: |\n" + "  x\n" * 100_000, "value-too-long"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused(name: str, tmp_path: Path) -> None:
    make, code = HOSTILE[name]
    found = timed(estate(tmp_path, make()))
    assert code in found


def _run_bounded(path: Path, limit_mib: int = MEMORY_MIB_MAX) -> tuple[str, float]:
    """The codes that a fresh process finds, which may not use more memory than it is given."""
    program = (
        "import sys\n"
        "from evac.estate import check\n"
        "from pathlib import Path\n"
        "print(' '.join(d.code for d in check(Path(sys.argv[1])).diagnostics))\n"
        "print(next(int(l.split()[1]) // 1024 for l in open('/proc/self/status') if l.startswith('VmHWM')))\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    found, peak = done.stdout.splitlines()
    assert int(peak) < limit_mib
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_line_of_500_megabytes_is_refused_in_constant_memory(tmp_path: Path) -> None:
    with (tmp_path / "estate.yaml").open("wb") as file:
        file.write(b"evac: 1\nname: ")
        file.seek(500 * 2**20)
        file.write(b"x")
    _fill(tmp_path / "servers.csv", b"server,site\n", 500 * 2**20)
    found, seconds = _run_bounded(tmp_path)
    assert found == "line-too-long"
    assert seconds < 2 * SECONDS_MAX
    (tmp_path / "estate.yaml").write_text("evac: 1\n")
    assert _run_bounded(tmp_path)[0] == "line-too-long"


def _fill(path: Path, start: bytes, size: int) -> None:
    """A sparse file: as large as said, on disk as small as its start."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def test_a_file_of_many_lines_is_refused_when_too_large(tmp_path: Path) -> None:
    line = b"# " + b"x" * 1_000 + b"\n"
    estate(tmp_path, line * (source_files.YAML_BYTES_MAX // len(line) + 2))
    assert timed(tmp_path) == ["file-too-large"]


def test_bounds_of_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    (tmp_path / "servers.csv").write_text("server,site\n" + "".join(f"s{k},a\n" for k in range(100)))
    monkeypatch.setattr("evac.estate.tables.reading.ROWS_MAX", 50)
    assert codes(tmp_path) == ["table-too-large"]
    for quoted in ('"s",a\n' * 100, '"s",a' + "," * 100):  # one quote does not lift the bounds
        (tmp_path / "servers.csv").write_text(f"server,site\n{quoted}")
        assert codes(tmp_path) == ["table-too-large"]
    (tmp_path / "servers.csv").unlink()
    pl.DataFrame({"server": [f"s{k}" for k in range(100)], "site": ["a"] * 100}).write_parquet(
        tmp_path / "servers.parquet"
    )
    assert codes(tmp_path) == ["table-too-large"]


def test_too_many_files(tmp_path: Path) -> None:
    for number in range(source_files.FILES_MAX + 1):
        (tmp_path / f"f{number:05d}.yaml").write_text("evac: 1\n")
    assert codes(tmp_path) == ["too-many-files"]


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "estate.yaml")
    assert timed(tmp_path) == ["file-special"]
    (tmp_path / "estate.yaml").unlink()
    (tmp_path / "estate.yaml").mkdir()
    assert timed(tmp_path) == ["file-special"]
    assert timed(Path("/dev/zero")) == ["file-special"]


def test_links(tmp_path: Path) -> None:
    folder = tmp_path / "estate"
    folder.mkdir()
    (tmp_path / "secret.yaml").write_text("evac: 1\n")
    (folder / "real.yaml").write_text("evac: 1\n")
    (folder / "estate.yaml").symlink_to(tmp_path / "secret.yaml")
    assert codes(folder) == ["file-outside"]
    (folder / "estate.yaml").unlink()
    (folder / "estate.yaml").symlink_to(folder / "estate.yaml")
    assert "file-unreadable" in codes(folder) or "file-outside" in codes(folder)
    (folder / "estate.yaml").unlink()
    (folder / "loop").symlink_to(folder)
    (tmp_path / "shortcut").symlink_to(folder)
    assert codes(folder) == []
    assert codes(tmp_path / "shortcut") == []


def test_missing_empty_and_unreadable(tmp_path: Path) -> None:
    assert codes(tmp_path / "nothing") == ["estate-not-found"]
    assert codes(tmp_path) == ["estate-empty"]
    estate(tmp_path, "")
    assert codes(tmp_path) == ["version-missing"]
    assert codes(tmp_path / "estate.yaml") == ["version-missing"]
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere.yaml")
    assert "file-unreadable" in codes(tmp_path)


def test_thousands_of_dangling_names_among_thousands(tmp_path: Path) -> None:
    described = "".join(f"  service-{k:05d}: {{}}\n" for k in range(10_000))
    dangling = "".join(f"  needy-{k:05d}: {{needs: [servise-{k:05d}]}}\n" for k in range(10_000))
    estate(tmp_path, "evac: 1\nservices:\n" + described + dangling)
    found = check(tmp_path).diagnostics
    assert "did you mean 'service-00000'?" in found[0].hint
    assert timed(tmp_path).count("name-unknown") == 200


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert codes(tmp_path) == ["file-unreadable"]


def test_both_kinds_of_one_table(tmp_path: Path) -> None:
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    (tmp_path / "servers.csv").write_text("server,site\n")
    pl.DataFrame({"server": ["s"], "site": ["a"]}).write_parquet(tmp_path / "servers.parquet")
    assert "table-twice" in codes(tmp_path)


def test_broken_parquet_is_an_error_and_no_crash(tmp_path: Path) -> None:
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    buffer = io.BytesIO()
    pl.DataFrame({"server": [f"s{k}" for k in range(500)], "site": ["a"] * 500}).write_parquet(buffer)
    good = buffer.getvalue()
    chance = random.Random(1)
    for cut in [0, 3, 8, len(good) // 2, len(good) - 1]:
        (tmp_path / "servers.parquet").write_bytes(good[:cut])
        assert codes(tmp_path) == ["table-unreadable"]
    for _ in range(60):
        broken = bytearray(good)
        for _ in range(4):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        (tmp_path / "servers.parquet").write_bytes(broken)
        check(tmp_path)


def test_damaged_bytes_are_told_in_plain_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The library of tables prints a stack of its own where it gives up; users see the diagnostic alone."""
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    buffer = io.BytesIO()
    pl.DataFrame({"server": [f"s{k}" for k in range(1000)], "site": ["a"] * 1000}).write_parquet(buffer)
    told = set()
    for seed in range(300):
        chance, broken = random.Random(seed), bytearray(buffer.getvalue())
        for _ in range(3):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        (tmp_path / "servers.parquet").write_bytes(broken)
        told |= {d.message for d in check(tmp_path).diagnostics if d.code == "table-unreadable"}
    assert "servers.parquet is not readable: its contents are corrupt" in told
    assert not [message for message in told if "Panic" in message or "unwrap" in message]
    assert capfd.readouterr().err == ""


def test_one_column_of_another_type_hides_no_other_problem(tmp_path: Path) -> None:
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    frame = pl.DataFrame({"server": ["s1", "s2"], "site": ["a", "b"], "rack": [[1], [2]], "watts": [-1, 2]})
    frame.write_parquet(tmp_path / "servers.parquet")
    assert set(codes(tmp_path)) == {"cell-invalid", "name-unknown", "negative"}


def test_more_capacity_than_can_be_added_up(tmp_path: Path) -> None:
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    rows = "".join(f"s{k},a,{2**53}\n" for k in range(300))
    (tmp_path / "servers.csv").write_text("server,site,memory_mib\n" + rows)
    assert codes(tmp_path) == ["quantity-too-large"]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("watts", [[1], [2]]),
        pl.Series("watts", [1.5, float("nan")]),
        pl.Series("watts", [float("inf"), 1e300]),
        pl.Series("watts", [b"1", b"2"]),
        pl.Series("watts", [2**63, 1], dtype=pl.UInt64),
        pl.Series("watts", [-1, -2]),
    ],
    ids=lambda series: str(series.to_list()),
)
def test_columns_of_other_types(column: pl.Series, tmp_path: Path) -> None:
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    frame = pl.DataFrame({"server": ["s1", "s2"], "site": ["a", "a"]}).with_columns(column)
    frame.write_parquet(tmp_path / "servers.parquet")
    assert set(codes(tmp_path)) & {"cell-invalid", "negative", "quantity-too-large"}


def test_long_names_in_a_table_do_not_fill_memory(tmp_path: Path) -> None:
    estate(tmp_path, "evac: 1\nsites: {a: {}}\n")
    names = ["x" * 1_000_000, *(f"s{k}" for k in range(100_000))]
    pl.DataFrame({"server": names, "site": ["a"] * len(names)}).write_parquet(tmp_path / "servers.parquet")
    found, _ = _run_bounded(tmp_path, 600)
    assert found == "id-invalid"


@pytest.mark.parametrize("number", range(3))
def test_a_link_at_any_part_of_a_path_leads_nowhere_outside(tmp_path: Path, number: int) -> None:
    """Each part in turn is a link: to a place inside, which is fine, then to one outside."""
    parts = ("conftool-data", "node", "eqiad.yaml")
    for root in ("source", "elsewhere"):
        (tmp_path / root).joinpath(*parts[:2]).mkdir(parents=True)
        (tmp_path / root).joinpath(*parts).write_text(f"from: {root}\n")
    source, file = tmp_path / "source", (tmp_path / "source").joinpath(*parts)
    linked = source.joinpath(*parts[: number + 1])
    linked.rename(source / "kept")
    linked.symlink_to(source / "kept")
    problems = Problems()
    assert read_bytes(file, source, 100, True, problems) == b"from: source\n"
    (tmp_path / "name").symlink_to(source)
    through = tmp_path / "name" / file.relative_to(source)
    assert read_bytes(through, tmp_path / "name", 100, True, problems) == b"from: source\n"
    assert not problems.all()
    linked.unlink()
    linked.symlink_to((tmp_path / "elsewhere").joinpath(*parts[: number + 1]))
    assert read_bytes(file, source, 100, True, problems) is None
    assert [one.code for one in problems.all()] == ["file-outside"]


def test_a_file_that_is_read_in_pieces_is_the_one_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that replaces it between check and reading leads nowhere, since it is opened only once."""
    source, outside = tmp_path / "source", tmp_path / "outside.json"
    source.mkdir()
    (source / "a.json").write_text("inside")
    outside.write_text("outside")
    opened, real = [], os.open

    def swapped(path: Any, *more: Any, **named: Any) -> int:
        handle = real(path, *more, **named)
        opened.append(path)
        if path == source / "a.json":
            (source / "a.json").unlink()
            (source / "a.json").symlink_to(outside)
        return handle

    monkeypatch.setattr(os, "open", swapped)
    problems = Problems()
    file = open_text(source / "a.json", source, problems)
    assert file is not None, problems.all()
    with file:
        assert file.read() == "inside"
    assert opened == [source / "a.json"]


def test_a_folder_of_sources_reads_no_file_through_a_link_that_leads_outside(tmp_path: Path) -> None:
    """Neither `import` of a folder nor the search of `init`; a link to another file of the folder is fine."""
    source, secret = tmp_path / "source", tmp_path / "private.yaml"
    source.mkdir()
    text = (
        "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: NAME}\nspec: {type: service}\n"
    )
    secret.write_text(text.replace("NAME", "stolen"))
    (source / "own.yaml").write_text(text.replace("NAME", "own"))
    (source / "alias.yml").symlink_to(source / "own.yaml")
    (source / "catalog-info.yaml").symlink_to(secret)
    assert read_bytes(source / "alias.yml", source, 1_000, True, Problems())
    with pytest.raises(SourceError) as caught:
        import_estate("backstage", source, tmp_path / "estate")
    assert "file-outside" in [one.code for one in caught.value.diagnostics]
    around = look_around(source)
    assert not [one for one in around.sources if "catalog-info" in one.path]
    assert [hint for hint in around.hints if hint.startswith("catalog-info.yaml is a link")]
