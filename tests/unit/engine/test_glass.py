"""Credentials signed offline: what was changed, is over, or was signed by somebody else, is refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.cli.program import run
from evac.engine.lead.watch_journal import of_event
from evac.engine.runs.signatures import PREFIX, SKEW_MS, check_time, issue, new_key, read, read_key
from evac.model.access import GlassRules, GlassUse, Grant
from evac.model.errors import InvalidInput, NotAllowed
from evac.run.values import Event

NOW = 1_800_000_000_000
GRANT = Grant("0" * 32, "kim", "approve", "fire-1-north", "", NOW, NOW + 3_600_000, 1, "the provider burns")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """(credential, public keys)."""
    path = tmp_path_factory.mktemp("keys") / "kim.pem"
    public = new_key(path)
    return issue(GRANT, read_key(path)), {"kim": public, "lee": base64.b64encode(bytes(32)).decode()}


def code_of(text: str, keys: dict[str, str]) -> str:
    with pytest.raises(NotAllowed) as raised:
        read(text, keys)
    return raised.value.code


def test_it_says_what_was_signed(signed: tuple[str, dict[str, str]]) -> None:
    text, keys = signed
    assert read(text, keys) == GRANT
    assert code_of(text, {}) == "glass-signer"
    assert code_of(text, {"kim": keys["lee"]}) == "glass-signature"
    assert code_of(text, {"kim": "AAAA"}) == "glass-signature"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("who", "lee", "glass-signature"),
        ("verb", "cancel", "glass-signature"),
        ("run", "fire-2", "glass-signature"),
        ("until_ms", 2**53, "glass-unreadable"),
        ("until_ms", NOW + 7_200_000, "glass-signature"),
        ("uses", 2, "glass-signature"),
        ("uses", 101, "glass-unreadable"),
        ("uses", True, "glass-unreadable"),
        ("incident", "fire-1", "glass-unreadable"),
        ("purpose", "evac approval 1", "glass-unreadable"),
        ("verb", "hold", "glass-unreadable"),
        ("who", "\ud800", "glass-unreadable"),
        ("who", ["kim"], "glass-unreadable"),
        ("more", 1, "glass-unreadable"),
        ("id", "../x", "glass-unreadable"),
        ("who", "kim\nlee", "glass-unreadable"),
    ],
)
def test_what_was_changed_is_refused(
    signed: tuple[str, dict[str, str]], name: str, value: object, code: str
) -> None:
    text, keys = signed
    payload, signature = text.removeprefix(PREFIX).split(".")
    told = json.loads(base64.urlsafe_b64decode(payload + "=="))
    changed = json.dumps(told | {name: value}, sort_keys=True, separators=(",", ":")).encode()
    again = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
    assert code_of(f"{PREFIX}{again}.{signature}", keys) == code


@pytest.mark.parametrize("name", ["kim\u3164", "kim\ufe0f", "\u3164"])
def test_none_is_signed_in_a_name_with_invisible_characters(tmp_path: Path, name: str) -> None:
    new_key(tmp_path / "kim.pem")
    with pytest.raises(InvalidInput, match="invisible characters"):
        issue(replace(GRANT, who=name), read_key(tmp_path / "kim.pem"))


@given(st.text(max_size=60), st.integers(0, 400))
def test_rubbish_is_refused_with_words(rubbish: str, at: int) -> None:
    for text in (rubbish, PREFIX + rubbish, f"{PREFIX}{rubbish}.{rubbish}", PREFIX + "A" * 9_000 + ".AA"):
        assert code_of(text, {"kim": "x"}) == "glass-unreadable"


def test_a_changed_letter_anywhere_is_refused(signed: tuple[str, dict[str, str]]) -> None:
    text, keys = signed
    for at in range(len(PREFIX), len(text), 7):
        other = "A" if text[at] != "A" else "B"
        assert code_of(text[:at] + other + text[at + 1 :], keys).startswith("glass-")


def test_it_is_good_for_its_time_and_no_longer_than_the_file_lets_it() -> None:
    rules = GlassRules(3_600_000, 1)
    check_time(GRANT, NOW, rules)
    check_time(GRANT, NOW - SKEW_MS, rules)
    check_time(GRANT, GRANT.until_ms - 1, rules)
    for grant, now, code in (
        (GRANT, GRANT.until_ms, "glass-expired"),
        (GRANT, NOW - SKEW_MS - 1, "glass-early"),
        (replace(GRANT, until_ms=GRANT.until_ms + 1), NOW, "glass-too-long"),
        (replace(GRANT, uses=2), NOW, "glass-too-long"),
    ):
        with pytest.raises(NotAllowed) as raised:
            check_time(grant, now, rules)
        assert raised.value.code == code


def test_the_command_signs_without_a_network_or_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = new_key(tmp_path / "kim.pem")
    line = ["access", "break-glass", "--run", "fire-1-north", "--purpose", "approve", "--who", "kim"]
    line += ["--reason", "the provider burns", "--key", f"file:{tmp_path / 'kim.pem'}", "--minutes", "30"]
    assert run(line) == 0
    told = capsys.readouterr()
    grant = read(told.out.strip(), {"kim": public})
    assert (grant.verb, grant.run, grant.uses, grant.until_ms - grant.from_ms) == (
        "approve",
        "fire-1-north",
        1,
        1_800_000,
    )
    assert told.out.strip() not in told.err
    piped = [*line[:-3], f"command:/bin/cat {tmp_path / 'kim.pem'}"]
    assert run(piped) == 0
    assert read(capsys.readouterr().out.strip(), {"kim": public}).who == "kim"
    assert run([*line, "--incident", "fire-1"]) == 2
    (tmp_path / "kim.pem").chmod(0o644)
    assert run(line) == 4
    assert "PRIVATE" not in capsys.readouterr().err


def test_nothing_is_signed_that_says_too_little(tmp_path: Path) -> None:
    new_key(tmp_path / "kim.pem")
    key = read_key(tmp_path / "kim.pem")
    for wrong in (
        replace(GRANT, reason=" "),
        replace(GRANT, who=""),
        replace(GRANT, run=""),
        replace(GRANT, uses=0),
        replace(GRANT, incident="fire-1"),
        replace(GRANT, verb="hold"),
        replace(GRANT, until_ms=NOW),
    ):
        with pytest.raises(InvalidInput):
            issue(wrong, key)


def test_its_use_is_a_notice() -> None:
    data = {"who": "kim", "reason": "fire", "break_glass": GlassUse("00000000", 1, 1, "fire").to_data()}
    told = of_event("fire-1-north", Event("approved", NOW, data=data))
    assert told is not None
    assert told[0] == "fire-1-north: BREAK-GLASS 00000000, use 1 of 1: kim approved"
    assert of_event("fire-1-north", Event("approved", NOW, data=data | {"break_glass": None})) is None
