"""What an agent must not forget: tokens, files, heads of journals."""

from __future__ import annotations

import itertools
import json
import stat
from pathlib import Path

import pytest

from evac.agent import memory as agent_anchors
from evac.agent.memory import Anchors, Head, TokenLedger, append_line, read_values, write_values
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
    with pytest.raises(Permanent, match="not a token that a store issues"):
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
    with pytest.raises(Permanent, match="a head must have"):
        Anchors(tmp_path).add("run-1", head)


def test_heads_never_fill_their_file_and_a_journal_written_anew_from_long_ago_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("NEWEST", 40), ("OLDER", 20), ("LINES_MOST", 80), ("SHOWN", 30)):
        monkeypatch.setattr(agent_anchors, name, value)
    anchors = Anchors(tmp_path)
    for number in range(1, 2_001):
        anchors.add("watch", Head(number, number * 3, f"{number:064x}"))
        if number == 700:
            anchors = Anchors(tmp_path)
    lines = (tmp_path / "watch.jsonl").read_bytes().splitlines()
    assert 60 <= len(lines) <= 80
    kept = [json.loads(line)["segment"] for line in lines]
    assert (kept[0], kept[-40:]) == (1, list(range(1_961, 2_001))), "the first, and the newest as they came"
    assert kept == sorted(set(kept))
    gaps = [after - before for before, after in itertools.pairwise(kept)]
    assert max(gaps) <= 250, "some of every part are left"
    shown = [head["segment"] for head in anchors.heads("watch")]
    assert (len(shown) <= 30, shown[0], shown[-15:]) == (True, 1, list(range(1_986, 2_001)))
    assert any(100 < segment < 1_960 for segment in shown)
    with pytest.raises(Permanent) as caught:
        anchors.add("watch", Head(1_999, 5_997, f"{1_999:064x}"))
    assert caught.value.code == "anchor-backwards"


def test_an_agent_that_keeps_too_many_journals_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_anchors, "MAX_STREAMS", 2)
    anchors = Anchors(tmp_path)
    for stream in ("run-1", "run-2"):
        anchors.add(stream, Head(0, 1, digest("a")))
    with pytest.raises(Permanent, match="accepts no more") as caught:
        anchors.add("run-3", Head(0, 1, digest("a")))
    assert (caught.value.code, "remove the files" in caught.value.hint) == ("anchor-full", True)
