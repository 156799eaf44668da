"""Proof level 5: a request of the application is answered from a restored copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.backup.known import (
    Known,
)
from evac.backup.schedule import entries_of, entry_for
from evac.derive.backups import verdicts
from evac.derive.domains import topology
from evac.drivers.capabilities import Reply
from evac.model.backup import (
    COMPARED,
    RESTORED,
    SERVED,
    BackupFacts,
    CopyState,
    ProofRecord,
)
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import Permanent, Retryable
from evac.views.backup_view import copy_words
from tests.unit.backup.world import Repository, World, endpoint, estate_of, task, world_of
from tests.unit.virtual_time import run_virtually

ANSWERED = Reply("Restart the pager", "pager", True)
DIFFERS = Reply("404 not found", "pager", False)


def served(
    monkeypatch: pytest.MonkeyPatch, folder: Path, reply: Any, **repository: Any
) -> tuple[list[ProofRecord], list[tuple[str, int | None]], World]:
    """The proofs after one restore test with a request, oldest first, and (outcome, level) of its events."""

    async def story() -> Any:
        asked = Repository(reply=reply)
        world = world_of(monkeypatch, folder, {"r-wiki": Repository(**repository), "asked": asked})
        await world.worker.do(task("take"))
        await world.worker.do(task("restore-test", request=endpoint("asked")))
        events = await world.evidence.history("wiki", 9)
        found = [(one.proof.outcome, one.proof.level) for one in reversed(events) if one.proof is not None]
        return (await world.evidence.known("wiki")).proofs, found, world

    proofs, found, world = run_virtually(story())
    assert world.repositories["r-wiki"].places == set(), "whatever was answered"
    return list(proofs), found, world


def test_a_restored_copy_that_answers_as_expected_is_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (proof,), _, _ = served(monkeypatch, tmp_path, ANSWERED)
    assert (proof.level, proof.outcome, proof.bytes_read) == (SERVED, "passed", 1_000)
    assert (proof.request, proof.answer) == ("asked", "Restart the pager")


def test_a_wrong_answer_is_a_failed_check_until_the_expected_one_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An older answer no longer counts. That the content was restored and compared still does."""
    proofs, events, _ = served(monkeypatch, tmp_path, DIFFERS)
    assert sorted(events) == [("answer-differs", SERVED), ("passed", COMPARED)]
    failed = next(one for one in proofs if one.outcome == "answer-differs")
    assert "does not contain 'pager': 404 not found" in failed.detail
    assert failed.request == "asked"
    before = ProofRecord("wiki", "r-wiki", SERVED, "passed", 1, 1_000, request="asked")

    def copy_after(*later: ProofRecord) -> CopyState:
        every = (before, *proofs, *later)
        facts = BackupFacts((), every)
        (verdict,) = verdicts(topology(estate_of(BackupPolicy(level=SERVED))), facts, 3_600_000)
        return verdict.copies[0]

    copy = copy_after()
    assert copy.failed is not None
    assert (copy.failed.outcome, copy.level, copy.proven, copy.damaged) == (
        "answer-differs",
        COMPARED,
        "unknown",
        False,
    )
    assert "wrong answer" in copy_words(copy, 3_600_000)
    compared = replace(before, level=COMPARED, at_ms=3_000_000)
    assert copy_after(compared).failed is not None
    again = copy_after(replace(before, at_ms=3_000_000))
    assert (again.failed, again.level, again.proven) == (None, SERVED, "met")


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (Retryable("request-silent", "it was not answered within 9 s"), "request-silent", "within 9 s"),
        (Permanent("request-failed", "the program ended with 3"), "request-failed", "ended with 3"),
    ],
)
def test_without_an_answer_a_copy_is_compared_and_not_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reply: Any, code: str, words: str
) -> None:
    proofs, events, _ = served(monkeypatch, tmp_path, reply)
    assert sorted(events) == [("could-not-run", SERVED), ("passed", COMPARED)]
    (compared,) = [one for one in proofs if one.outcome == "passed"]
    (failed,) = [one for one in proofs if one.outcome == "could-not-run"]
    assert compared.level == COMPARED
    assert (failed.level, failed.code, failed.request) == (SERVED, code, "asked")
    assert words in failed.detail
    (verdict,) = verdicts(
        topology(estate_of(BackupPolicy(level=SERVED))), BackupFacts((), tuple(proofs)), 3_600_000
    )
    (copy,) = verdict.copies
    assert (copy.level, copy.proven, copy.not_run) == (COMPARED, "unknown", failed)


def test_what_could_not_be_compared_is_not_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (proof,), _, world = served(monkeypatch, tmp_path, ANSWERED, changes=True)
    assert (proof.level, proof.outcome) == (RESTORED, "passed")
    assert "no request was put to it, because its content could not be compared" in proof.detail
    assert world.repositories["asked"].asked == []


def test_what_is_damaged_gets_no_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (proof,), _, world = served(monkeypatch, tmp_path, ANSWERED, restored={"rows": 6})
    assert (proof.level, proof.outcome) == (COMPARED, "damaged")
    assert world.repositories["asked"].asked == []


def test_the_timetable_puts_the_request_of_the_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world_of(monkeypatch, tmp_path, {})
    estate = estate_of(BackupPolicy(level=3, request="asked", restore_test="0 3 * * *"))
    estate = replace(estate, endpoints=(*estate.endpoints, endpoint("asked")))
    tests = [entry for entry in entries_of(estate) if entry.job == "restore-test"]
    tests.append(entry_for(estate, "wiki", "r-wiki", "restore-test"))  # type: ignore[arg-type]
    assert len(tests) == 2
    for entry in tests:
        made = entry.task(0, Known("wiki"))
        assert (made.request, made.compare) == (endpoint("asked"), True)
