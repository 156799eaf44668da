"""Where a room may listen: nowhere that others reach without TLS and an access file."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.app.controlling import Setting
from evac.cli.program import run
from evac.cli.serve_command import _room
from evac.engine.clock import SystemClock
from evac.model.errors import EstateError, EvacError, InvalidInput, NotAllowed
from evac.web import serving
from evac.web.access.opening import access_of, choose, context_of, setting_of
from evac.web.access.port import Loopback
from evac.web.setting import listen_of
from tests.web.certificates import papers

PEOPLE = "people: {kim: {role: admin, password: env:KIM}}\n"


def test_on_loopback_without_a_file_whoever_is_there_is_admin(tmp_path: Path) -> None:
    opened = choose(tmp_path, listen_of("127.0.0.1:0"))
    assert isinstance(access_of(opened, "tester", SystemClock()), Loopback)
    assert not setting_of(opened).secure


def test_the_file_beside_the_estate_counts_on_loopback_too(tmp_path: Path) -> None:
    (tmp_path / "access.yaml").write_text(PEOPLE)
    opened = choose(tmp_path, listen_of("127.0.0.1:0"))
    assert access_of(opened, "tester", SystemClock()).authenticates


@pytest.mark.parametrize("kind", ["a link to nowhere", "a folder", "a link to itself"])
def test_a_file_that_cannot_be_read_opens_the_room_to_nobody(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "access.yaml"
    if kind == "a folder":
        file.mkdir()
    else:
        file.symlink_to(file if kind == "a link to itself" else tmp_path / "gone")
    with pytest.raises(EstateError):
        choose(tmp_path, listen_of("127.0.0.1:0"))


def test_a_room_that_starts_again_asks_for_the_file_it_was_opened_with(tmp_path: Path) -> None:
    """Whatever happens to the file beside the estate: without it the room does not start."""
    file = tmp_path / "access.yaml"
    file.write_text(PEOPLE)
    told = _room(Setting(tmp_path, "north", f"sqlite:{tmp_path / 's'}"), "127.0.0.1:0", None, None, None)
    file.unlink()
    assert serving.main(told) == serving.FAILED


@pytest.mark.parametrize("listen", ["0.0.0.0:8400", "[::]:8400", "192.0.2.1:8400", "war.example.com:8400"])
@pytest.mark.parametrize(("file", "tls"), [(False, False), (True, False), (False, True)])
def test_an_address_that_others_reach_needs_both(tmp_path: Path, listen: str, file: bool, tls: bool) -> None:
    found = papers(tmp_path)
    if file:
        (tmp_path / "access.yaml").write_text(PEOPLE)
    named = (found.cert, found.key) if tls else (None, None)
    with pytest.raises(NotAllowed) as raised:
        choose(tmp_path, listen_of(listen), None, *named)
    assert raised.value.code == "listen-public"
    assert "--tls-cert" in raised.value.hint


def test_with_both_it_answers_to_the_names_that_are_said(tmp_path: Path) -> None:
    found = papers(tmp_path)
    text = PEOPLE + f"address: https://war.example.com\ntls: {{cert: {found.cert}, key: {found.key}}}\n"
    (tmp_path / "access.yaml").write_text(text)
    setting = setting_of(choose(tmp_path, listen_of("0.0.0.0:8400")))
    assert setting.secure
    assert "war.example.com" in setting.hosts
    assert "0.0.0.0" not in setting.hosts
    (tmp_path / "access.yaml").write_text(PEOPLE)
    with pytest.raises(InvalidInput, match="own name is unknown"):
        choose(tmp_path, listen_of("0.0.0.0:8400"), None, found.cert, found.key)
    named = choose(tmp_path, listen_of("192.0.2.1:8400"), None, found.cert, found.key)
    assert "192.0.2.1" in setting_of(named).hosts


def test_a_broken_file_stops_it_with_every_problem(tmp_path: Path) -> None:
    (tmp_path / "access.yaml").write_text("people: {kim: {role: king}, lee: {}}\n")
    with pytest.raises(EstateError) as raised:
        choose(tmp_path, listen_of("127.0.0.1:0"))
    assert len(raised.value.diagnostics) == 2


def test_a_certificate_that_is_of_no_use_is_said_to_be(tmp_path: Path) -> None:
    found = papers(tmp_path)
    (tmp_path / "access.yaml").write_text(PEOPLE)
    here = listen_of("127.0.0.1:0")
    for cert, key, code in (
        (found.cert, found.client_key, "tls-unusable"),
        (found.key, found.key, "tls-unusable"),
        (tmp_path / "nothing", found.key, "tls-unusable"),
        (found.cert, tmp_path / "nothing", "tls-unusable"),
        (found.cert, None, "tls-half"),
    ):
        with pytest.raises(EvacError) as raised:
            choose(tmp_path, here, None, cert, key)
        assert raised.value.code == code
    found.key.chmod(0o604)
    with pytest.raises(NotAllowed) as exposed:
        choose(tmp_path, here, None, found.cert, found.key)
    assert exposed.value.code == "key-exposed"
    found.key.chmod(0o600)
    opened = choose(tmp_path, here, None, found.cert, found.key)
    assert opened.tls is not None
    assert context_of(opened.tls).minimum_version.name == "TLSv1_2"


def test_the_command_refuses_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:{tmp_path / 'runs.sqlite'}"
    line = ["serve", str(tmp_path), "--site", "a", "--store", store, "--listen", "0.0.0.0:8400"]
    assert run(line) == 4
    said = capsys.readouterr().err
    assert "listen-public" in said
    assert "there is no TLS and authentication" in said
    assert not (tmp_path / "runs.sqlite").exists()
