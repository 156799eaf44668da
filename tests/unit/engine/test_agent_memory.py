"""What an agent must not forget: tokens, files, heads of journals."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from evac.engine.agent_anchors import Anchors, Head
from evac.engine.agent_memory import TokenLedger, append_line, read_values, write_values
from evac.model.errors import Corrupt, Permanent


def digest(letter: str) -> str:
    return letter * 64


def test_a_token_is_remembered_by_the_next_agent(tmp_path: Path) -> None:
    path = tmp_path / "token.json"
    TokenLedger(path).obey(9)
    ledger = TokenLedger(path)
    ledger.obey(9)
    for token in (8, 1, 0, -1):
        with pytest.raises(Permanent, match="older leader"):
            ledger.obey(token)
    assert ledger.highest == 9


def test_no_token_at_all_is_never_obeyed(tmp_path: Path) -> None:
    with pytest.raises(Permanent):
        TokenLedger(tmp_path / "token.json").obey(0)


def test_a_token_that_no_store_gives_out_is_not_obeyed(tmp_path: Path) -> None:
    ledger = TokenLedger(tmp_path / "token.json")
    with pytest.raises(Permanent, match="no store"):
        ledger.obey(1 << 60)
    ledger.obey(7)
    assert (ledger.highest, ledger.generation) == (7, 0)


def test_a_token_that_cannot_be_written_is_not_obeyed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    ledger = TokenLedger(folder / "token.json")
    folder.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="state"):
        ledger.obey(5)
    assert ledger.highest == 0


def test_a_file_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "token.json"
    for data in (b"", b"{", b"[1]"):
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            TokenLedger(path)


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    write_values(tmp_path / "a.json", {"x": 1})
    append_line(tmp_path / "b.jsonl", b"x")
    for name in ("a.json", "b.jsonl"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert read_values(tmp_path / "a.json") == {"x": 1}


def test_heads_only_go_forward(tmp_path: Path) -> None:
    anchors = Anchors(tmp_path)
    anchors.add("run-1", Head(0, 100, digest("a")))
    anchors.add("run-1", Head(4, 900, digest("b")))
    anchors.add("run-1", Head(4, 900, digest("b")))
    for head, code in [
        (Head(3, 950, digest("c")), "anchor-backwards"),
        (Head(5, 899, digest("c")), "anchor-backwards"),
        (Head(4, 900, digest("c")), "anchor-changed"),
        (Head(4, 901, digest("b")), "anchor-changed"),
    ]:
        for one in (anchors, Anchors(tmp_path)):
            with pytest.raises(Permanent) as caught:
                one.add("run-1", head)
            assert caught.value.code == code
    assert [head["segment"] for head in Anchors(tmp_path).heads("run-1")] == [0, 4]


def test_a_line_torn_by_a_crash_counts_for_nothing_and_harms_no_later_one(tmp_path: Path) -> None:
    Anchors(tmp_path).add("run-1", Head(0, 1, digest("a")))
    with (tmp_path / "run-1.jsonl").open("ab") as file:
        file.write(b'{"segment":7,"rec')
    Anchors(tmp_path).add("run-1", Head(1, 2, digest("b")))
    assert [head["segment"] for head in Anchors(tmp_path).heads("run-1")] == [0, 1]


@pytest.mark.parametrize("stream", ["", "../token", "a/b", ".hidden", "a" * 200, "a\nb"])
def test_a_stream_never_names_another_file(tmp_path: Path, stream: str) -> None:
    with pytest.raises(Permanent, match="character"):
        Anchors(tmp_path).add(stream, Head(0, 1, digest("a")))


@pytest.mark.parametrize("head", [Head(-1, 0, digest("a")), Head(0, -1, digest("a")), Head(0, 0, "abc")])
def test_a_head_that_is_none_is_refused(tmp_path: Path, head: Head) -> None:
    with pytest.raises(Permanent, match="a head is"):
        Anchors(tmp_path).add("run-1", head)
