"""Reports about backups never call a copy proven by a check that read nothing."""

from __future__ import annotations

import pytest

from evac.drivers.capabilities import EXISTS, READ, SERVED, STRUCTURE, Proof, ProofOutcome


def proof(level: int, outcome: ProofOutcome, bytes_read: int) -> Proof:
    return Proof("c1", level, outcome, bytes_read, 0, 5, "ansan", "restic", "0.18.0")


@pytest.mark.parametrize("level", range(READ, SERVED + 1))
def test_no_byte_read_is_no_proof(level: int) -> None:
    with pytest.raises(ValueError, match="proves nothing"):
        proof(level, "passed", 0)
    assert proof(level, "passed", 1).outcome == "passed"
    assert proof(level, "could-not-run", 0).outcome == "could-not-run"


@pytest.mark.parametrize("level", [EXISTS, STRUCTURE])
def test_levels_that_promise_no_reading_pass_without(level: int) -> None:
    assert proof(level, "passed", 0).level == level
