"""Figures from the clients' ledger: what counts as a write after the fire, and what as two primaries."""

import json
from pathlib import Path

import pytest

from evac_lab.clients import (
    Direct,
    LedgerReader,
    LedgerWriter,
    Record,
    acknowledged,
    acknowledged_probes,
    double_primary_seconds,
    measure,
    measure_directly,
    read_ledger,
    size,
)


def tried(client: int, id: str, began: float, acked: float | None, number: int = 1) -> list[Record]:
    rows = [Record("try", began, client, id, number)]
    if acked is not None:
        rows.append(Record("ack", acked, client, id, number))
    return rows


def probes(site: str, *rows: tuple[float, float, bool]) -> list[Record]:
    return [Record("probe", end, site=site, begin=begin, ok=ok) for begin, end, ok in rows]


def test_an_answer_on_its_way_when_the_site_burnt_is_no_write_after_it() -> None:
    rows = [*tried(0, "a", 9.9, 10.1), *tried(1, "b", 9.8, None)]
    rows += [*tried(0, "c", 10.2, 12.5), *tried(1, "b", 11.0, 13.0, number=2)]
    found = measure(rows, burnt_at=10.0)
    assert (found.first_write_seconds, found.last_client_seconds) == (2.5, 3.0)
    assert (found.clients, found.recovered, found.acknowledged) == (2, 2, 3)
    assert found.longest_gap_seconds == pytest.approx(2.4)


def test_a_write_while_the_site_was_still_being_killed_is_none_after_it() -> None:
    rows = [*tried(0, "a", 10.01, 10.03), *tried(0, "b", 10.1, None), *tried(0, "b", 12.0, 12.5, number=2)]
    assert measure(rows, burnt_at=10.0).first_write_seconds == 0.03
    assert measure(rows, burnt_at=10.0, until=10.06).first_write_seconds == 2.5


def test_a_client_that_never_comes_back_is_not_forgotten() -> None:
    found = measure([*tried(0, "a", 10.5, 11.0), *tried(1, "b", 10.5, None)], burnt_at=10.0)
    assert found.first_write_seconds == 1.0
    assert found.last_client_seconds is None
    assert (found.clients, found.recovered) == (2, 1)


def test_a_silence_that_still_lasts_is_measured() -> None:
    found = measure([*tried(0, "a", 9.0, 9.1), *tried(0, "b", 18.0, None)], burnt_at=10.0)
    assert found.longest_gap_seconds == 8.0


def test_two_primaries_are_seen_and_a_hand_over_is_none() -> None:
    old = probes("pangyo", (0.0, 0.1, True), (1.0, 1.1, True), (2.0, 2.1, False))
    new = probes("anyang", (1.5, 1.6, False), (3.0, 3.1, True), (4.0, 4.1, True))
    assert double_primary_seconds(sorted(old + new, key=lambda row: row.at)) == 0.0
    back = probes("pangyo", (3.2, 3.3, True), (3.6, 3.7, True))
    assert double_primary_seconds(sorted(old + new + back, key=lambda row: row.at)) == pytest.approx(0.5)


def test_each_store_is_measured_by_its_own_probes() -> None:
    rows = probes("pangyo", (9.0, 9.1, True), (10.01, 10.02, True), (10.3, 10.4, False))
    rows += probes("anyang", (10.5, 10.6, False), (12.0, 12.1, True))
    other = [Record("probe", 11.6, site="anyang", number=7, begin=11.5, ok=True, store="orders")]
    other += [Record("probe", 11.5, site="pangyo", number=6, begin=11.4, ok=True, store="orders")]
    other += [Record("probe", 11.7, site="pangyo", number=9, begin=11.6, store="orders")]
    every = sorted(rows + other, key=lambda row: row.at)
    assert measure_directly(every, "messages", 10.0, "pangyo") == Direct(2.1, 0.0)
    assert measure_directly(every, "orders", 10.0, "pangyo") == Direct(1.6, 0.0)
    assert measure_directly(every, "orders", 12.0, "pangyo").first_write_seconds is None
    assert acknowledged_probes(every, "orders") == {("pangyo", 6), ("anyang", 7)}
    assert double_primary_seconds(every) == 0.0


def test_a_fail_back_and_forth_is_no_double_primary() -> None:
    rows = probes("pangyo", (0, 1, True)) + probes("anyang", (1.2, 1.3, True), (2, 2.1, False))
    rows += probes("pangyo", (1.1, 1.15, False), (2.2, 3, True))
    assert double_primary_seconds(sorted(rows, key=lambda row: row.at)) == 0.0


def test_what_is_written_is_read_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writer = LedgerWriter(path)
    writer.write("try", 1.0, client=3, id="x", number=1, address="127.1.0.6")
    middle = size(path)
    writer.write("ack", 2.0, client=3, id="x", number=1, address="127.1.0.6", site="pangyo")
    writer.close()
    reader, last = LedgerReader(path, middle), json.dumps({"kind": "ack", "at": 3.0})
    with path.open("a") as file:
        file.write(last[:-4])
        file.flush()
        assert [row.kind for row in reader.read()] == ["ack"]
        file.write(last[-4:] + "\n")
    assert [row.at for row in reader.read()] == [2.0, 3.0], "each once, and the torn one when it is whole"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with path.open("a") as file:
        file.write(last[:-4])
    assert [row.kind for row in read_ledger(path)] == ["try", "ack"]
    assert [row.kind for row in read_ledger(path, middle)] == ["ack"]
    assert acknowledged(read_ledger(path)) == {"x"}
