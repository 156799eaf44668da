"""The notices file: every problem at once with its place; nothing secret in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from evac import estate as estates
from evac.estate.codecs.notices import CHANNELS_MOST, load_notices, notices_beside, notices_schema
from evac.model.errors import EstateError
from evac.notices.values import Channel, NoticeRules

SMALL = Path(__file__).parents[2] / "fixtures" / "estates" / "small"
WHOLE = """
room: https://war.example.com:8400
page: https://status.example.com
channels:
  on-call: {apprise: env:ON_CALL, least: error}
  tickets: {webhook: "file:/etc/evac/url", secret: "command:/bin/get evac",
    kinds: [finding, plan], clear: true}
  desk: {apprise: env:DESK, kinds: site}
  users: {apprise: env:USERS, kinds: update}
  readers: {mail: "file:/etc/evac/smtp.url", secret: env:KEY, sender: status@example.com,
    join: "https://status.example.com/email/", kinds: update}
"""


def rules(folder: Path, text: str) -> NoticeRules:
    file = folder / "notices.yaml"
    file.write_text(text)
    return load_notices(file)


def problems(folder: Path, text: str) -> set[tuple[str, int]]:
    with pytest.raises(EstateError) as raised:
        rules(folder, text)
    assert raised.value.code == "notices-invalid"
    return {(row.code, row.place.line) for row in raised.value.diagnostics}


def test_everything_written_is_read(tmp_path: Path) -> None:
    found = rules(tmp_path, WHOLE)
    assert found.room == "https://war.example.com:8400"
    assert found.channels["on-call"] == Channel("on-call", "apprise", "env:ON_CALL", least="error")
    assert found.channels["tickets"] == Channel(
        "tickets",
        "webhook",
        "file:/etc/evac/url",
        "command:/bin/get evac",
        frozenset({"finding", "plan"}),
        "warning",
        True,
    )
    assert found.channels["desk"].kinds == frozenset({"site"})
    assert found.page == "https://status.example.com"
    assert [one.name for one in found.channels.values() if one.public] == ["readers", "users"]
    readers = found.channels["readers"]
    assert (readers.way, readers.url, readers.secret) == ("mail", "file:/etc/evac/smtp.url", "env:KEY")
    assert (readers.sender, readers.join) == ("status@example.com", "https://status.example.com/email")
    jsonschema.validate(yaml.safe_load(WHOLE), notices_schema())


def test_every_problem_at_once_with_its_place(tmp_path: Path) -> None:
    text = (
        "rooom: x\n"
        "channels:\n"
        "  one: {apprise: 'slack://token/channel'}\n"
        "  two: {webhook: env:A}\n"
        "  three: {apprise: env:A, webhook: env:B, secret: env:C}\n"
        "  four: {}\n"
        "  five: {apprise: env:A, least: urgent, kinds: [sites]}\n"
        "  six: {apprise: env:A, secret: env:B}\n"
        "  a/b: {apprise: env:A}\n"
        "  users: {apprise: env:A, kinds: [update, run]}\n"
        "  mail: {mail: env:A, secret: env:B, sender: a@b.example, join: 'https://x'}\n"
        "  other: {mail: env:A, kinds: update, sender: 'a@b\\nBcc: c@d'}\n"
        "  last: {apprise: env:A, sender: a@b.example}\n"
    )
    assert problems(tmp_path, text) == {
        ("key-unknown", 1),
        ("secret-in-clear", 3),
        ("value-missing", 4),
        ("channel-way", 5),
        ("channel-way", 6),
        ("not-a-choice", 7),
        ("channel-way", 8),
        ("id-invalid", 9),
        ("channel-mixed", 10),
        ("mail-incomplete", 11),
        ("address-invalid", 12),
        ("mail-incomplete", 12),
        ("channel-way", 13),
        ("too-many-channels", 1),
    }


def test_an_address_in_clear_is_told_without_a_word_of_it(tmp_path: Path) -> None:
    with pytest.raises(EstateError) as raised:
        rules(tmp_path, "channels: {a: {apprise: 'slack://hunter2/x'}}\n")
    assert "hunter2" not in " ".join(str(row) for row in raised.value.diagnostics)


@pytest.mark.parametrize("text", ["", "channels:\n", "channels: {}\n", "room: https://x\n"])
def test_a_file_that_tells_nobody_is_refused(tmp_path: Path, text: str) -> None:
    assert "nobody-told" in {code for code, _ in problems(tmp_path, text)}


@pytest.mark.parametrize(
    "word", ["5", "ftp://x", "https://", "war.example.com", "http://a:b@x", "http://[", "http://x:y"]
)
def test_a_link_that_no_browser_opens_is_refused(tmp_path: Path, word: str) -> None:
    text = f"channels: {{a: {{apprise: env:A}}}}\nroom: '{word}'\npage: '{word}'\n"
    assert problems(tmp_path, text) == {("not-an-address", 2), ("not-an-address", 3)}


def test_channels_are_bounded(tmp_path: Path) -> None:
    rows = "".join(f"  c{n}: {{apprise: env:A}}\n" for n in range(CHANNELS_MOST + 1))
    assert problems(tmp_path, f"channels:\n{rows}") == {("too-many-channels", 1)}


def test_there_is_one_list_of_subscribers(tmp_path: Path) -> None:
    one = "{mail: env:A, secret: env:B, sender: a@b.example, join: 'https://x', kinds: update}"
    assert problems(tmp_path, f"channels:\n  a: {one}\n  b: {one}\n") == {("too-many-channels", 1)}


@pytest.mark.parametrize(
    "text", ["channels: [1]\n", "- x\n", "channels: 5\n", "channels: {a: 5}\n", "{", "\0"]
)
def test_misshapen_files_are_refused_and_nothing_breaks(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_it_lies_beside_the_estate_and_is_no_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "company"
    shutil.copytree(SMALL, folder)
    before = estates.load(folder)
    assert notices_beside(folder) is None
    (folder / "notices.yaml").write_text(WHOLE)
    assert notices_beside(folder) == folder / "notices.yaml"
    assert estates.load(folder).sites == before.sites
