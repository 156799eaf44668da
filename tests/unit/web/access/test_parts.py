"""Logins, counts and references: bounded, and closed where in doubt."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.model.access import Sessions
from evac.model.errors import Permanent
from evac.model.estate import Rate
from evac.net import secrets
from evac.net.secrets import secret_of
from evac.web.access import keeping as sessions_of
from evac.web.access.keeping import NAMES_MOST, OF_ONE_MOST, Often, SessionBook, neighbourhood


class Turned:
    now = 0

    def __call__(self) -> int:
        return self.now


def test_logins_are_bounded_for_one_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    book, rules = SessionBook(Turned()), Sessions()
    values = [book.open("kim", "viewer", "password", "key", rules) for _ in range(OF_ONE_MOST + 3)]
    assert len(book) == OF_ONE_MOST
    assert book.find(values[2], rules) is None
    assert book.find(values[3], rules) is not None
    monkeypatch.setattr(sessions_of, "SESSIONS_MOST", 30)
    for number in range(50):
        book.open(f"p{number}", "viewer", "oidc", "", rules)
    assert len(book) == 30


def test_a_login_ends_at_its_bound_whatever_is_asked() -> None:
    clock, rules = Turned(), Sessions(1_000, 10_000)
    book = SessionBook(clock)
    value = book.open("kim", "viewer", "break-glass", "key", rules, most_ms=1_500)
    clock.now = 999
    assert book.find(value, rules) is not None
    clock.now = 1_499
    assert book.find(value, rules) is not None
    clock.now = 1_500
    assert book.find(value, rules) is None
    assert book.find("../../etc/passwd", rules) is None


def test_a_window_slides_and_names_are_forgotten() -> None:
    clock = Turned()
    often, rate = Often(clock), Rate(2, 1_000)
    often.note("a", rate)
    clock.now = 400
    assert often.wait_ms("a", rate) == 0
    often.note("a", rate)
    assert often.wait_ms("a", rate) == 600
    clock.now = 1_000
    assert often.wait_ms("a", rate) == 0
    for number in range(NAMES_MOST + 10):
        often.note(str(number), rate)
    assert len(often._seen) == NAMES_MOST
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff") != neighbourhood("2001:db8:0:1::1")
    assert neighbourhood("::ffff:192.0.2.1") == "192.0.2.1"


def test_a_command_says_a_secret_without_a_shell(tmp_path: Path) -> None:
    program = tmp_path / "say"
    program.write_text('#!/bin/sh\nprintf "%s\\nmore" "$1"\n')
    program.chmod(0o700)
    assert secret_of(f"command:{program} 'a b;$(id)'").reveal() == "a b;$(id)"


@pytest.mark.parametrize(
    "reference",
    [
        "command:/bin/false",
        "command:/nothing/there",
        "command:echo x",
        "command:/bin/true",
        "command:/bin/echo 'x",
        "x",
    ],
)
def test_a_reference_that_gives_nothing_is_refused_without_its_words(reference: str) -> None:
    with pytest.raises(Permanent) as raised:
        secret_of(reference)
    assert raised.value.code in ("secret-missing", "secret-reference")


def test_of_a_program_that_says_too_much_no_more_is_read_than_a_secret_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for, nor for what it left running with its output, and has ended afterwards."""
    with pytest.raises(Permanent) as raised:
        secret_of("command:/bin/cat /dev/zero")
    assert raised.value.code == "secret-too-large"
    monkeypatch.setattr(secrets, "COMMAND_S", 0.2)
    program = tmp_path / "stays"
    program.write_text("#!/bin/sh\nsleep 2 &\necho word\n")
    program.chmod(0o700)
    for line in (program, "/bin/sleep 60"):
        with pytest.raises(Permanent, match="did not answer"):
            secret_of(f"command:{line}")
