"""Approvals: signed for one plan and envelope by a listed person, and for nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from evac.engine.runs.signatures import Approval, check, new_key, read_key, sign
from evac.model.errors import NotAllowed
from evac.model.run_policy import Approver, Envelope, RunPolicy

APPROVAL = Approval("run-1", "sha256:1", Envelope(("pangyo",), ("messages",), 0, 0), "kim", "fire", "INC-1")


def test_a_listed_person_signs_and_is_believed(tmp_path: Path) -> None:
    policy = RunPolicy(approvers=(Approver("kim", new_key(tmp_path / "kim")),))
    signature = sign(APPROVAL, read_key(tmp_path / "kim"))
    check(APPROVAL, signature, policy)
    with pytest.raises(NotAllowed):
        check(APPROVAL, "", policy)


@pytest.mark.parametrize(
    "other",
    [
        replace(APPROVAL, run="run-2"),
        replace(APPROVAL, plan="sha256:2"),
        replace(APPROVAL, bound="sha256:2"),
        replace(APPROVAL, envelope=Envelope(("pangyo", "anyang"), ("messages",), 0, 0)),
        replace(APPROVAL, envelope=Envelope(("pangyo",), ("messages",), 1, 0)),
        replace(APPROVAL, reason="drill"),
        replace(APPROVAL, who="lee"),
    ],
)
def test_a_signature_is_good_for_nothing_else(tmp_path: Path, other: Approval) -> None:
    keys = {name: new_key(tmp_path / name) for name in ("kim", "lee")}
    policy = RunPolicy(approvers=tuple(Approver(name, key) for name, key in keys.items()))
    with pytest.raises(NotAllowed) as raised:
        check(other, sign(APPROVAL, read_key(tmp_path / "kim")), policy)
    assert raised.value.code == "signature-invalid"


@pytest.mark.parametrize("text", ["", "!", "AAAA", "=" * 88])
def test_what_is_no_signature_is_refused(tmp_path: Path, text: str) -> None:
    policy = RunPolicy(approvers=(Approver("kim", new_key(tmp_path / "kim")),))
    with pytest.raises(NotAllowed):
        check(APPROVAL, text, policy)


def test_a_stranger_is_refused(tmp_path: Path) -> None:
    policy = RunPolicy(approvers=(Approver("lee", new_key(tmp_path / "lee")),))
    with pytest.raises(NotAllowed) as raised:
        check(APPROVAL, sign(APPROVAL, read_key(tmp_path / "lee")), policy)
    assert raised.value.code == "approver-unknown"


def test_a_key_that_others_can_read_is_refused_and_none_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kim"
    new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        new_key(path)
    path.chmod(0o640)
    with pytest.raises(NotAllowed) as raised:
        read_key(path)
    assert raised.value.code == "key-exposed"
    path.chmod(0o600)
    path.write_text("nothing")
    with pytest.raises(NotAllowed):
        read_key(path)
