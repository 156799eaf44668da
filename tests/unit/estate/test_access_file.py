"""The access file: every problem at once with its place; one person has one name; nothing secret in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from evac import estate as estates
from evac.app.access import ENDS_MOST_MS, digest_of, new_token
from evac.cli.program import run
from evac.estate.codecs.access import access_beside, access_schema, load_access
from evac.model.access import AccessRules, Rate, least
from evac.model.errors import EstateError, InvalidInput

KEY = "A" * 43 + "="
HASH = "sha256:" + "a" * 64
WHOLE = f"""
address: https://war.example.com:8400
hosts: [War2.example.com]
people:
  kim: {{role: approver, password: "file:/etc/evac/kim", key: {KEY}, subject: "17"}}
  lee: {{role: admin, password: "env:LEE", subject: ''}}
tokens:
  grafana: {{role: viewer, hash: "{HASH}", ends: "2026-12-01T00:00:00Z"}}
  laptop: {{role: approver, hash: "sha256:{"b" * 64}", of: kim}}
tls: {{cert: /etc/evac/room.pem, key: /etc/evac/room.key}}
sessions: {{idle: 10 min, whole: 8 h}}
break_glass: {{most: 1 h, uses: 2}}
limits: {{sign_in: 5 per minute}}
oidc: {{issuer: "https://id.example.com/realm", client: evac, client_secret: "command:/bin/get evac",
  roles: {{sre: operator}}}}
"""


def rules(folder: Path, text: str) -> AccessRules:
    file = folder / "access.yaml"
    file.write_text(text)
    return load_access(file)


def problems(folder: Path, text: str) -> set[tuple[str, int]]:
    with pytest.raises(EstateError) as raised:
        rules(folder, text)
    assert raised.value.code == "access-invalid"
    return {(row.code, row.place.line) for row in raised.value.diagnostics}


def test_everything_written_is_read(tmp_path: Path) -> None:
    found = rules(tmp_path, WHOLE)
    assert (found.people["kim"].role, found.people["kim"].subject, found.people["lee"].subject) == (
        "approver",
        "17",
        "",
    )
    assert found.tokens["laptop"].of == "kim"
    assert found.tokens["grafana"].ends_ms == 1_796_083_200_000
    assert found.provider is not None
    assert found.provider.roles == {"sre": "operator"}
    assert found.provider.name_claim == "sub"
    assert (found.sessions.idle_ms, found.glass.most_ms, found.limits.sign_in) == (
        600_000,
        3_600_000,
        Rate(5, 60_000),
    )
    assert found.hosts == ("war2.example.com",)
    jsonschema.validate(yaml.safe_load(WHOLE), access_schema())


def test_every_problem_at_once(tmp_path: Path) -> None:
    text = (
        "peeple: {}\n"
        "people:\n"
        "  kim: {role: operater}\n"
        "  lee: {role: admin, password: hunter2}\n"
        "  ann: {role: viewer, keys: x}\n"
        "tokens:\n"
        "  ci: {role: approver, hash: '" + HASH + "'}\n"
        "  ann: {role: viewer, hash: hunter2}\n"
        "  bot: {role: viewer, hash: 'sha256:" + "c" * 64 + "', of: an}\n"
        "oidc: {issuer: 'http://id.example.com', client: evac}\n"
    )
    found = problems(tmp_path, text)
    assert found == {
        ("key-unknown", 1),
        ("not-a-choice", 3),
        ("secret-in-clear", 4),
        ("key-unknown", 5),
        ("program-approves", 7),
        ("not-a-hash", 8),
        ("name-unknown", 9),
        ("address-open", 10),
    }


def test_what_is_misspelt_is_guessed_and_a_secret_is_never_said(tmp_path: Path) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(
        "people:\n  kim: {role: admin, pasword: 'hunter2'}\n  lee: {role: admin, password: hunter2}\n"
    )
    with pytest.raises(EstateError) as raised:
        load_access(file)
    said = [f"{row.message} {row.hint}" for row in raised.value.diagnostics]
    assert any("did you mean 'password'?" in words for words in said)
    assert not any("hunter2" in words for words in said)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "nobody"),
        ("people: {}", "nobody"),
        ("people: {kim: {role: viewer}, KIM: {role: viewer}}", "id-taken"),
        ("people: {kim: {role: viewer}, k\u0456m: {role: viewer}}", "id-taken"),
        (f"people: {{a: {{role: viewer, key: {KEY}}}, b: {{role: viewer, key: {KEY}}}}}", "id-taken"),
        ("people: {a: {role: viewer, subject: '1'}, b: {role: viewer, subject: '1'}}", "id-taken"),
        ("people: {kim: {role: viewer}}\ntokens: {kim: {role: viewer, hash: '" + HASH + "'}}", "id-taken"),
        ("people: {kim: {role: viewer}}\nsessions: {idle: 2 h, whole: 1 h}", "out-of-range"),
        ("people: {kim: {role: viewer}}\ntls: {cert: room.pem, key: /k}", "not-a-path"),
        ("people: {kim: {role: viewer}}\noidc: {issuer: 'https://i', client: c}", "subject-missing"),
        ("people: [kim]", "wrong-type"),
        ("people: {kim: {role: viewer}}\nhosts: ['a/b']", "not-a-host"),
        ("people: {kim: {role: viewer}}\ntrusted_proxies: [proxy]", "not-a-network"),
        ("people: {kim: {role: viewer, certificate: 'sha256:" + "0" * 64 + "'}}", "certificate-unseen"),
        ("people: {kim: {role: viewer}}\naddress: 'https://user@host'", "not-an-address"),
    ],
)
def test_what_cannot_be(tmp_path: Path, text: str, code: str) -> None:
    assert code in {found for found, _ in problems(tmp_path, text)}


def test_the_file_beside_an_estate_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text("evac: 1\nsites: {a: {}}\n")
    (tmp_path / "access.yaml").write_text(WHOLE)
    assert access_beside(tmp_path) == tmp_path / "access.yaml"
    assert estates.check(tmp_path).estate is not None


def test_a_new_token_is_kept_as_a_hash_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["access", "token", "ci", "--role", "operator"]) == 0
    told = capsys.readouterr()
    text = told.out.strip()
    assert text.startswith("evac_")
    assert text not in told.err
    line = next(row for row in told.err.splitlines() if row.startswith("  "))
    found = rules(tmp_path, f"people: {{kim: {{role: viewer}}}}\ntokens:\n{line}\n").tokens["ci"]
    assert found.digest == digest_of(text) == hashlib.sha256(text.encode()).hexdigest()
    assert found.role == "operator"


def test_a_token_ends_when_it_can_be_written() -> None:
    with pytest.raises(InvalidInput, match="year 10000"):
        new_token("ci", "viewer", ends_ms=ENDS_MOST_MS + 1)
    assert '"9999-12-31T23:59:59Z"' in new_token("ci", "viewer", ends_ms=ENDS_MOST_MS).line


def test_a_program_may_not_approve_unless_it_acts_for_a_person() -> None:
    with pytest.raises(InvalidInput, match="must act for a person"):
        new_token("ci", "approver")
    assert "of: kim" in new_token("laptop", "approver", "kim").line
    assert new_token("ci", "viewer").text != new_token("ci", "viewer").text
    assert least("admin", "viewer") == least("viewer", "admin") == "viewer"


def test_the_command_says_who_may_do_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "access.yaml").write_text(WHOLE)
    assert run(["access", "check", str(tmp_path / "access.yaml"), "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["people"] == {"kim": "approver", "lee": "admin"}
    assert told["tokens"]["laptop"] == {"role": "approver", "of": "kim"}
    (tmp_path / "access.yaml").write_text("people: {kim: {}}\n")
    assert run(["access", "check", str(tmp_path / "access.yaml")]) == 2
    assert "access.yaml:1:" in capsys.readouterr().err


def test_secrets_that_every_user_of_the_machine_can_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, secret = tmp_path / "access.yaml", tmp_path / "kim.txt"
    file.write_text(f"people: {{kim: {{role: viewer, password: 'file:{secret}'}}}}\n")
    for there, mode, warns in ((False, 0, False), (True, 0o644, True), (True, 0o640, False)):
        if there:
            secret.write_text("x")
            secret.chmod(mode)
        file.chmod(0o644)  # it holds references only
        assert run(["access", "check", str(file)]) == 0
        assert (f"can read {secret}\nnext: chmod o= {secret}" in capsys.readouterr().err) == warns
