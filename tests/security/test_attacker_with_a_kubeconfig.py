"""Someone who gives others a kubeconfig, or a folder to import: they get no file of the user, and no name of
a file writes a line of the output.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evac.app.fetching import clusters, fetch
from evac.app.fetching.clusters import fetch_cluster
from evac.app.fetching.kubeconfig import read_access
from evac.cli.main import run
from evac.estate.format.problems import Problems
from evac.estate.importers.discovery import look_around
from evac.estate.importers.imported import Live
from evac.model.errors import EvacError, InvalidInput
from tests.unit.app.test_clusters import ApiServer, kubeconfig, recorded, serving

pytestmark = pytest.mark.enable_socket
THEIRS = "hunter2-of-the-user"
KEY = f"-----BEGIN KEY-----\n{THEIRS}\n-----END KEY-----\n"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(clusters, "REQUESTS_PER_SECOND", 1_000)
    with serving(recorded("fra")) as found:
        yield found


@pytest.fixture
def given(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "password").write_text(THEIRS)
    (folder / "link").symlink_to(tmp_path / "password")
    return folder


def of_user(given: Path, server: str, user: dict[str, Any]) -> Path:
    return kubeconfig(given / "config", {"prod": ({"server": server}, user)})


@pytest.mark.parametrize("name", ["../password", "link", "{absolute}", "a\0b"])
def test_no_file_of_the_user_is_sent_to_their_server(given: Path, api: ApiServer, name: str) -> None:
    path = of_user(given, api.url, {"tokenFile": name.format(absolute=given.parent / "password")})
    with pytest.raises(InvalidInput, match="outside the folder of the kubeconfig") as caught:
        fetch_cluster(Live(context="prod", kubeconfig=path), (), given.parent, Problems())
    assert re.match(r"config:\d+:\d+: context prod takes", caught.value.message)
    assert THEIRS not in f"{caught.value} {caught.value.hint}"
    assert not api.asked


def test_a_token_next_to_the_kubeconfig_is_sent(given: Path, api: ApiServer) -> None:
    (given / "token").write_text(f"{THEIRS}\n")
    api.token = THEIRS
    path = of_user(given, api.url, {"tokenFile": "token"})
    fetch_cluster(Live(context="prod", kubeconfig=path), (), given.parent, Problems())
    assert api.asked


def test_what_is_no_token_is_neither_sent_nor_shown(
    given: Path, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`http.client` quotes a header that has line breaks in its error."""
    monkeypatch.setenv("EVAC_RED_TOKEN", KEY)
    (given / "key").write_text(KEY)
    for user in ({"tokenFile": "key"}, {"token": KEY}, {"token": "caf\u00e9"}):
        with pytest.raises(InvalidInput, match="not one line of visible characters") as caught:
            read_access((of_user(given, api.url, user),), "prod")
        assert THEIRS not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(EvacError, match="contains is no token") as refused:
        fetch("netbox", api.url, given, "env:EVAC_RED_TOKEN")
    assert THEIRS not in f"{refused.value} {refused.value.hint}"
    assert not api.asked


ODD = (b"a\xff", b"b\x1b[31m", b"c\nerror: all is lost [x]", "d\u202e".encode())


def plant(folder: Path, ending: bytes, text: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in ODD:
        (folder / os.fsdecode(name + ending)).write_text(text)


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("kind", ["compose", "kubernetes"])
def test_no_name_of_a_file_writes_a_line_of_an_import(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, output: str
) -> None:
    source = tmp_path / "source"
    if kind == "compose":
        plant(source, b".yaml", "services:\n  q: {}\n")
        (source / "compose.yaml").write_text("services:\n  web: {image: x}\n")
    else:
        item = "kind: Deployment\nmetadata: {name: x}\nspec: {replicas: many}\n"
        plant(source, b".yaml", f"apiVersion: apps/v1\n{item}")
    run(["import", kind, str(source), "-o", str(tmp_path / "out"), "--site", "x", "--output", output])
    said = capfd.readouterr()
    check_lines(said.out + said.err)
    assert "\ufffd" in said.out + said.err, "the names are there, as far as they can be shown"


@pytest.mark.parametrize("output", ["text", "json", "sarif", "junit", "github", "markdown"])
def test_no_name_of_a_file_writes_a_line_of_a_check_or_an_audit(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], output: str
) -> None:
    for n, name in enumerate(ODD):
        text = f"services: {{s{n}: {{tier: 1, colour: red}}}}\n"
        (tmp_path / os.fsdecode(name + b".yaml")).write_text(text)
    (tmp_path / "estate.yaml").write_text("evac: 1\nsites: {w: {}, e: {}}\n")
    run(["check", str(tmp_path), "--output", output])
    for path in tmp_path.iterdir():
        path.write_text(path.read_text().replace(", colour: red", ""))
    if output != "junit":
        run(["audit", str(tmp_path), "--output", output])
    said = capfdbinary.readouterr()
    check_lines((said.out + said.err).decode("utf-8", "strict"))


def check_lines(said: str) -> None:
    assert "internal error" not in said
    assert not any(line.startswith("error: all is lost") for line in said.splitlines())
    assert not set(said) & {"\x1b", "\u202e"}, "nothing steers a terminal"


def test_init_reads_no_file_that_a_recipe_cannot_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path / "company", b".csv", "host,site,cores,app\nh1,x,4,shop\n")
    (tmp_path / "company" / "hosts.csv").write_text("host,site,cores,app\nh2,y,4,pay\n")
    assert run(["init", str(tmp_path / "company"), "--yes", "--no-audit"]) == 0
    said = capfd.readouterr()
    check_lines(said.out + said.err)
    assert "1 source found in company" in said.err + said.out
    assert (said.err + said.out).count("rename it") == len(ODD)
    (command,) = look_around(tmp_path, ["prod; rm -rf ~"]).hints[-1:]
    assert shlex.split(command)[-2:] == ["--context", "prod; rm -rf ~"], "as a person pastes it"
