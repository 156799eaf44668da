"""Every reader of sources refuses or skips what is broken, in time, and never ends in a traceback."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest

from bench.hostile_sources import broken, outcomes, samples
from evac.estate.format.problems import Problems
from evac.estate.importers import KINDS, SourceError, import_estate
from evac.estate.importers.imported import Options
from evac.estate.importers.running import read_source
from evac.estate.importers.source_files import Growth, read_values, texts_of
from evac.model.diagnostic import Place
from evac.model.errors import EvacError


def test_broken_sources_of_every_kind_are_read_or_refused() -> None:
    found = outcomes(seed=20_261_129, count=1_100)
    assert not found.wrong, "\n".join(found.wrong)
    kinds = {kind for kind, _, _ in samples()}
    assert kinds == {*KINDS, "recipe", "kubeconfig"} - {"wikimedia"}
    assert set(found.refused) == kinds, "each kind refuses some"
    assert set(found.read) == kinds, "and reads some"


def test_a_seed_gives_the_same_sources() -> None:
    assert list(broken(3, 60)) == list(broken(3, 60))
    assert list(broken(3, 60)) != list(broken(4, 60))


def many_bytes(path: Path, content: bytes) -> None:
    """3 GiB without taking any: what is not written of a file reads as NUL."""
    with path.open("wb") as file:
        file.write(content)
        file.truncate(3 << 30)


def loops(path: Path, content: bytes) -> None:
    path.mkdir()
    os.mkfifo(path / "a.yaml")
    (path / "b.yaml").symlink_to("b.yaml")
    (path / "again").symlink_to(".")


UNREADABLE: Final[dict[str, Callable[[Path, bytes], Any]]] = {
    "a pipe": lambda path, content: os.mkfifo(path),
    "an empty folder": lambda path, content: path.mkdir(),
    "a folder of pipes and loops": loops,
    "a link to itself": lambda path, content: path.symlink_to(path.name),
    "a link to nothing": lambda path, content: path.symlink_to("nowhere"),
    "a device": lambda path, content: path.symlink_to("/dev/zero"),
    "nothing": lambda path, content: None,
    "0 bytes": lambda path, content: path.write_bytes(b""),
    "UTF-16": lambda path, content: path.write_bytes(content.decode().encode("utf-16")),
    "UTF-16 without a mark": lambda path, content: path.write_bytes(content.decode().encode("utf-16-le")),
    "NUL bytes": lambda path, content: path.write_bytes(content[:20] + b"\0" * 9 + content[20:]),
    "only NUL bytes": lambda path, content: path.write_bytes(b"\0" * 100_000),
    "3 GiB": many_bytes,
    "one long line": lambda path, content: path.write_bytes(content + b"x" * (40 << 20)),
    "10^5 lists": lambda path, content: path.write_bytes(b"[" * 100_000),
    "10^5 mappings": lambda path, content: path.write_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "10^5 dashes": lambda path, content: path.write_bytes(b"- " * 100_000 + b"a"),
}


TABLES: Final = ("csv", "catalogue")
"""Kinds whose tables may also be UTF-16, as spreadsheets save them."""


def asked_of(kind: str) -> tuple[str, bytes]:
    """The usual name of a source of this kind, and what is in it."""
    return next(((name, content) for one, name, content in samples() if one == kind), ("tree", b"x"))


def refuse_all(kind: str, folder: Path) -> None:
    """Imports every unreadable source of a kind, and shows that nothing of it is written."""
    name, content = asked_of(kind)
    for number, (what, make) in enumerate(UNREADABLE.items()):
        source, target = folder / f"{kind}-{number}" / name, folder / f"{kind}-{number}" / "estate"
        source.parent.mkdir()
        make(source, content)
        if what == "UTF-16" and kind in TABLES:
            import_estate(kind, source, target)
            continue
        with pytest.raises(EvacError) as raised:
            import_estate(kind, source, target)
        assert raised.value.code, (kind, what)
        assert raised.value.hint, (kind, what)
        if isinstance(raised.value, SourceError):
            told = [one for one in raised.value.diagnostics if one.severity == "error"]
            assert told, (kind, what)
            assert all(one.code and one.message and one.hint and one.place.file for one in told), (kind, told)
        assert not target.exists(), (kind, what)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_read_is_refused_with_its_place_within_bounds(kind: str, tmp_path: Path) -> None:
    """In a process whose memory and processor the system limits: what holds a source as a whole, or reads
    on for 3 GiB behind its first NUL byte, would be killed.
    """
    words = f"import sys; from tests.unit.estate.importing.test_hostile_sources import *; bounded({kind!r})"
    argv = (sys.executable, "-c", words, str(tmp_path))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[4])
    assert done.returncode == 0, done.stderr[-2_000:]


def bounded(kind: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
    refuse_all(kind, Path(sys.argv[1]))


def inventory(folder: Path, variables: dict[str, str], groups: dict[str, Any], hosts: int = 1) -> None:
    told = {"hostvars": {f"h{number}": variables for number in range(hosts)}}
    (folder / "inventory.json").write_text(json.dumps({"_meta": told, **groups}))


def compose(folder: Path, lines: Iterable[str], env: str = "A=" + "x" * 60_000) -> None:
    (folder / ".env").write_text(f"{env}\n")
    (folder / "compose.yaml").write_text("services:\n" + "".join(f"  {line}\n" for line in lines))


def included(folder: Path) -> None:
    compose(folder, ["a: {image: b}"])
    (folder / "compose.yaml").write_text("include: [other.yaml]\nservices: {a: {image: b}}\n")
    lines = "".join(f"  s{number}: {{image: '{'$A' * 2_000}'}}\n" for number in range(100))
    (folder / "other.yaml").write_text(f"services:\n{lines}")


def plays(folder: Path) -> None:
    hosts = [f"h{number}" for number in range(4_000)]
    inventory(folder, {"datacenter": "fra"}, {"web": {"hosts": hosts}}, 4_000)
    variables = ", ".join(f"v{number}: x" for number in range(100))
    (folder / "site.yml").write_text(f"- {{hosts: web, vars: {{{variables}}}}}\n" * 1_000)


def manifests(folder: Path) -> None:
    long = [{"name": f"V{number}", "value": "$(A)" * 16_000} for number in range(60)]
    env = [{"name": "A", "value": "x" * 65_000}, *long]
    spec = {"template": {"spec": {"containers": [{"name": "web", "image": "web", "env": env}]}}}
    told = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
    (folder / "web.json").write_text(json.dumps(told))


def quotes(folder: Path) -> None:
    cell = "\n".join(["x" * 60] * 49)
    rows = (f'h{number},fra,"{cell}"\n' for number in range(5_000))
    (folder / "hosts.csv").write_text("name,site,note\n" + "".join(rows))


GROWING: Final[dict[str, tuple[str, Callable[[Path], None], bool]]] = {
    "a long variable in many places": (
        "compose",
        lambda folder: compose(folder, (f"s{number}: {{image: '{'$A' * 2_000}'}}" for number in range(50))),
        False,
    ),
    "a long variable in a file that is included": ("compose", included, False),
    "a large service that many extend": (
        "compose",
        lambda folder: compose(
            folder,
            [
                f"b: {{{', '.join(f'k{number}: 1' for number in range(5_000))}}}",
                *(f"s{number}: {{extends: b}}" for number in range(5_000)),
            ],
        ),
        False,
    ),
    "a long file of variables for many services": (
        "compose",
        lambda folder: compose(
            folder,
            (f"s{number}: {{env_file: .env}}" for number in range(2_000)),
            "\n".join(f"V{number}=x" for number in range(20_000)),
        ),
        False,
    ),
    "a long value that a template names often": (
        "ansible",
        lambda folder: inventory(folder, {"a": "x" * (1 << 20), "datacenter": "{{a}}" * 200_000}, {}),
        True,
    ),
    "places within places": (
        "ansible",
        lambda folder: inventory(
            folder,
            {"datacenter": "fra"},
            {
                f"site_{number}": {"children": [f"site_{number + 1}"], "hosts": ["h0"]}
                for number in range(8_000)
            },
        ),
        True,
    ),
    "groups that several places share": (
        "ansible",
        lambda folder: inventory(
            folder,
            {"datacenter": "fra"},
            {f"site_{number}": {"children": ["g0"]} for number in range(4_000)}
            | {f"g{number}": {"children": [f"g{number + 1}"]} for number in range(4_000)},
        ),
        False,
    ),
    "many variables in many plays of many hosts": ("ansible", plays, True),
    "a variable of a container that names a long one often": ("kubernetes", manifests, True),
    "cells of many lines": ("csv", quotes, True),
}


@pytest.mark.parametrize("what", GROWING)
def test_a_small_source_whose_references_lead_to_much_is_read_or_refused_in_time(
    what: str, tmp_path: Path
) -> None:
    """In a process whose memory and computing time the system limits."""
    words = f"import sys; from tests.unit.estate.importing.test_hostile_sources import *; grown({what!r})"
    argv = (sys.executable, "-c", words, str(tmp_path))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[4])
    assert done.returncode == 0, (done.returncode, done.stderr[-2_000:])


def grown(what: str) -> None:
    kind, make, is_read = GROWING[what]
    make(folder := Path(sys.argv[1]))
    assert sum(one.stat().st_size for one in folder.iterdir()) < 16 << 20
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    most_s = 10 if kind == "csv" else 30
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
    source = next(folder.glob("*.csv"), folder)
    problems = Problems()
    read_source(kind, source, problems, Options())
    errors = [one.code for one in problems.all() if one.severity == "error"]
    assert errors == ([] if is_read else ["too-many-values"])


@pytest.mark.parametrize(("kind", "name"), [("kubernetes", "web.yaml"), ("backstage", "catalog.yaml")])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_listed_is_said_and_the_rest_is_read(
    kind: str, name: str, code: int, tmp_path: Path
) -> None:
    good = {
        "kubernetes": b"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2}}",
        "backstage": asked_of("backstage")[1],
    }[kind]
    for folder in ("open", "shut"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        (tmp_path / "source" / folder / name).write_bytes(good)
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    with mock.patch("os.scandir", scandir):
        found = import_estate(kind, tmp_path / "source", tmp_path / "estate")
        with pytest.raises(SourceError):
            import_estate(kind, tmp_path / "source", tmp_path / "strict", strict=True)
    told = [one for one in found.diagnostics if one.code == "import-skipped"]
    assert [one.place.file for one in told] == ["shut"]
    assert os.strerror(code) in told[0].message
    assert not (tmp_path / "strict").exists()


def test_a_character_that_json_writes_as_two_escapes_is_read(tmp_path: Path) -> None:
    text = r'{"a": "\ud83d\uDE00", "b": "\\ud83d\\ude00", "c": "\n\u00e9"}'
    (tmp_path / "x.json").write_text(text)
    node = read_values(tmp_path / "x.json", problems := Problems())
    assert problems.all() == ()
    assert texts_of(node) == json.loads(text)


def test_what_is_wrong_with_yaml_in_braces_is_not_that_it_is_not_json(tmp_path: Path) -> None:
    for name, text in (("x.yaml", "{a: b, c: ]}"), ("x.yml", '{"a": b, "c": ]}'), ("x.json", r'["\ud83d"]')):
        (tmp_path / name).write_text(text)
        node = read_values(tmp_path / name, problems := Problems())
        assert node is None
        (one,) = problems.all()
        assert one.code == "yaml-syntax"
        assert "export" not in one.hint


def test_a_source_is_refused_however_much_it_grew() -> None:
    growth = Growth(problems := Problems(), 10)
    growth.refuse(Place("x"))
    assert [one.code for one in problems.all()] == ["too-many-values"]
