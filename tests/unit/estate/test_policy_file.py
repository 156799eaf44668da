"""The policy file: every problem at once with its place; what is not written is the careful default."""

from pathlib import Path

import pytest

from evac import estate as estates
from evac.estate.codecs.policy import load_policy, policy_beside
from evac.model.errors import EstateError
from evac.model.run_policy import PROFILES, Envelope, RunPolicy

KEY = "A" * 43 + "="
WHOLE = f"""
mode: act
approvals: 1
approvers: {{kim: {KEY}}}
envelope: {{sites: [pangyo], stores: [messages], most_lost: 2 s, most_shed: 400}}
watch: {{profile: fast, confirm: 20 s}}
stores:
  messages: {{fence_proofs: [sync, attest], on_sync_loss: next, async_promotion: allow, most_lost: 5 s}}
pace: {{shares: [10 %, 100 %], wait: 2 s}}
windows: [{{from: "2026-11-25T03:00:00Z", to: "2026-11-25T04:00:00+00:00", sites: [anyang], reason: works}}]
driver_limits: {{postgres: 4}}
"""


def policy(folder: Path, text: str) -> RunPolicy:
    file = folder / "policy.yaml"
    file.write_text(text)
    return load_policy(file)


def test_nothing_written_is_the_careful_policy(tmp_path: Path) -> None:
    assert policy(tmp_path, "") == RunPolicy()
    assert RunPolicy().mode == "advise"
    assert RunPolicy().profile == PROFILES["cautious"]
    assert "sync" not in RunPolicy().store("anything").proofs


def test_everything_written_is_read(tmp_path: Path) -> None:
    found = policy(tmp_path, WHOLE)
    assert found.envelope == Envelope(("pangyo",), ("messages",), 2_000, 400)
    assert (found.profile.name, found.profile.confirm_ms, found.profile.misses) == ("fast", 20_000, 3)
    assert found.store("messages").proofs == ("sync", "attest")
    assert found.store("messages").most_lost_ms == 5_000
    assert found.pace.shares == (100, 1_000)
    assert found.windows[0].end_ms - found.windows[0].begin_ms == 3_600_000
    assert found.driver_limits == {"postgres": 4}


def test_every_problem_at_once(tmp_path: Path) -> None:
    text = (
        "mode: go\nstores: {db: {fence_proofs: [hope]}}\napprovers: {kim: x}\n"
        "pace: {shares: [50 %]}\nfoo: 1\n"
        "windows: [{from: yesterday, to: 2026-11-25T03:00:00}]\n"
    )
    with pytest.raises(EstateError) as raised:
        policy(tmp_path, text)
    found = {(d.code, d.place.line) for d in raised.value.diagnostics}
    assert found == {
        ("not-a-choice", 1),
        ("not-a-choice", 2),
        ("not-a-key", 3),
        ("out-of-range", 1),
        ("key-unknown", 5),
        ("not-a-moment", 6),
    }


def test_names_are_checked_against_the_estate(tmp_path: Path) -> None:
    folder = tmp_path / "estate"
    folder.mkdir()
    (folder / "estate.yaml").write_text("evac: 1\nsites: {pangyo: {}}\n")
    (folder / "policy.yaml").write_text(WHOLE)
    loaded = estates.load(folder)
    assert policy_beside(folder) == folder / "policy.yaml"
    with pytest.raises(EstateError) as raised:
        load_policy(folder / "policy.yaml", loaded)
    assert {d.message for d in raised.value.diagnostics} == {
        "the estate has no store 'messages'",
        "the estate has no site 'anyang'",
    }


def test_more_approvals_than_approvers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EstateError) as raised:
        policy(tmp_path, f"approvals: 2\napprovers: {{kim: {KEY}}}\n")
    assert [d.code for d in raised.value.diagnostics] == ["out-of-range"]


@pytest.mark.parametrize(
    "approvers",
    [f"{{kim: {KEY}, lee: {KEY}}}", f"{{kim: {KEY}, k\u0456m: {'B' * 43}=}}"],
    ids=["key", "name"],
)
def test_one_person_is_no_two_approvers(tmp_path: Path, approvers: str) -> None:
    with pytest.raises(EstateError) as raised:
        policy(tmp_path, f"approvals: 2\napprovers: {approvers}\n")
    assert [d.code for d in raised.value.diagnostics] == ["id-taken"]


def test_a_key_said_twice_or_a_bomb_is_refused(tmp_path: Path) -> None:
    for text in ("mode: act\nmode: hold\n", "mode: &a [*a]\n", "mode: " + "[" * 500, "\x00"):
        with pytest.raises(EstateError):
            policy(tmp_path, text)
