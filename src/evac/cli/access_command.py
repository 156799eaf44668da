"""evac access: the access file of the war room, tokens for programs, credentials signed offline, and the log
of access and approvals for other systems: JSON lines, and CEF (ArcSight Common Event Format 0).
"""

from __future__ import annotations

import csv
import io
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import click
import orjson

from evac import __version__
from evac.cli import console
from evac.cli.console import emit, say
from evac.cli.options import FILE, Length, now_ms, output_option, quiet_option
from evac.cli.target import Where, in_store, where_options
from evac.engine.runs.requests import VERBS
from evac.model.access import ROLES, AccessRecord, AccessRules
from evac.model.errors import InvalidInput
from evac.views.words import moment

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


_SEVERITY: Final[Mapping[str, int]] = MappingProxyType(
    {"sign-in-refused": 5, "refused": 6, "break-glass": 9, "clock-jump": 7, "logins-ended": 4, "approved": 5}
)
_PLAIN: Final = 3
_FILE: Final = "file:"


def json_line(one: AccessRecord) -> str:
    """One record on one line; `at` is UTC."""
    return orjson.dumps({"at": moment(one.at_ms), **asdict(one)}).decode() + "\n"


def cef_line(one: AccessRecord) -> str:
    """One record as CEF: `rt` in milliseconds, the person as `suser`, the proof of identity as `cs1`."""
    severity = _SEVERITY.get(one.kind, _PLAIN)
    head = "|".join(
        _line(text).replace("\\", "\\\\").replace("|", "\\|")
        for text in ("evac", "evac", __version__, one.kind, one.kind.replace("-", " "))
    )
    facts = {
        "rt": str(one.at_ms),
        "suser": one.who,
        "src": one.address,
        "externalId": one.request,
        "cs1Label": "proof" if one.proof else "",
        "cs1": one.proof,
        "cs2Label": "run" if one.run else "",
        "cs2": one.run,
        "cs3Label": "site" if one.site else "",
        "cs3": one.site,
        "reason": one.code,
        "cnt": str(one.count),
        "msg": one.what,
    }
    told = " ".join(f"{key}={_value(value)}" for key, value in facts.items() if value)
    return f"CEF:0|{head}|{severity}|{told}\n"


def _value(text: str) -> str:
    return _line(text).replace("\\", "\\\\").replace("=", "\\=")


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


class May(Protocol):
    """A row of the access list; see `evac.app.access.MayDo`."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def may(self) -> str: ...
    @property
    def proof(self) -> str: ...
    @property
    def until_ms(self) -> int: ...


def _may_rows(rows: Sequence[May]) -> list[dict[str, str]]:
    return [
        {
            "kind": one.kind,
            "name": one.name,
            "role": one.role,
            "may": one.may,
            "proof": one.proof,
            "until": moment(one.until_ms) or "" if one.until_ms else "",
        }
        for one in rows
    ]


def may_text(rows: Sequence[May]) -> str:
    lines = []
    for row in _may_rows(rows):
        role = f" ({row['role']})" if row["role"] else ""
        until = f", until {row['until']}" if row["until"] else ""
        lines.append(_line(f"{row['kind']} {row['name']}{role}: {row['may']}; by {row['proof']}{until}"))
    return "\n".join(lines) + "\n"


def may_json(rows: Sequence[May]) -> str:
    told = {"schema_version": 1, "rows": _may_rows(rows)}
    return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n"


def may_csv(rows: Sequence[May]) -> str:
    """CSV. A cell that a spreadsheet would interpret as a formula begins with an apostrophe."""
    from evac.views.quarantine import csv_cell

    text = io.StringIO()
    writer = csv.DictWriter(text, ["kind", "name", "role", "may", "proof", "until"], lineterminator="\n")
    writer.writeheader()
    for row in _may_rows(rows):
        writer.writerow({key: csv_cell(one) for key, one in row.items()})
    return text.getvalue()


@click.group()
def access() -> None:
    """Check access files; make tokens and break-glass credentials."""


@access.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="Role of the token."
)
@click.option("--of", "person", default="", metavar="PERSON", help="Person that the token acts for.")
@click.option(
    "--for", "length", type=Length(), default=0, help="How long it is valid, like 90d. [default: no limit]"
)
@quiet_option
def token(name: str, role: str, person: str, length: int, quiet: bool) -> None:
    """Create a new token called NAME. Prints it once, with the line for the access file.

    The token goes to stdout, the line to stderr. Only its hash is kept, in that line.
    """
    from evac.app.access import new_token
    from evac.estate.format.kinds import ID

    for one in (name, *([person] if person else [])):
        if not ID.fullmatch(one):
            raise InvalidInput(
                "id-invalid", f"'{one[:60]}' is not a name", "use only letters, digits and . _ - : @"
            )
    made = new_token(name, role, person, now_ms() + length if length else 0)  # type: ignore[arg-type]
    emit(made.text, None)
    say(f"put this under tokens: in access.yaml\n  {made.line}")
    say("next: evac access check access.yaml", quiet)


@access.command()
@click.argument("file", type=FILE)
@output_option("text", "json")
def check(file: Path, output: str) -> int:
    """Check an access file: show every problem with file, line and column, or who may do what."""
    import json

    from evac.estate.codecs.access import load_access

    rules = load_access(file)
    for path in _open_to_others(file, rules):
        say(f"warning: every user of this machine can read {path}\nnext: chmod o= {path}")
    if output == "json":
        people = {one.name: one.role for one in rules.people.values()}
        tokens = {one.name: {"role": one.role, "of": one.of} for one in rules.tokens.values()}
        issuer = rules.provider.issuer if rules.provider else ""
        told = {"schema_version": 1, "people": people, "tokens": tokens, "issuer": issuer}
        emit(json.dumps(told, indent=2, ensure_ascii=False) + "\n", None)
        return console.DONE
    lines = [f"{one.name}: {one.role}" for one in rules.people.values()]
    lines += [
        f"token {one.name}: {one.role}" + (f", acts for {one.of}" if one.of else "")
        for one in rules.tokens.values()
    ]
    if rules.provider is not None:
        roles = ", ".join(f"{value} -> {role}" for value, role in rules.provider.roles.items())
        lines.append(f"{rules.provider.issuer}: {roles or 'only the people above'}")
    emit("\n".join(lines) + "\n", None)
    return console.DONE


def _open_to_others(file: Path, rules: AccessRules) -> list[Path]:
    """Files with passwords, keys or their hashes that everyone on this machine can read. A file that is not
    here may be on the machine of the war room.
    """
    people = list(rules.people.values())
    references = [secret for one in people for secret in (one.password, one.totp)]
    references += [rules.provider.secret] if rules.provider is not None else []
    paths = [Path(one.removeprefix(_FILE)) for one in references if one.startswith(_FILE)]
    paths += [Path(rules.tls.key)] if rules.tls is not None else []
    paths += [file] if any(one.password_hash for one in people) else []
    found = []
    for path in sorted(set(paths)):
        with suppress(OSError):
            if path.stat().st_mode & stat.S_IROTH:
                found.append(path)
    return found


@access.command()
@click.argument("name")
@click.option(
    "--stdin",
    "piped",
    is_flag=True,
    help="Read the password from stdin instead of prompting. This is the default if stdin is not a terminal.",
)
@quiet_option
def password(name: str, piped: bool, quiet: bool) -> None:
    """Ask for the password of NAME, and print its argon2id hash for the access file."""
    import sys

    from evac.model import extras

    try:
        from evac.web.access.passwords import hash_of
    except ImportError:
        raise extras.needs("serve", "evac access password") from None
    if piped or not sys.stdin.isatty():
        text = sys.stdin.readline().rstrip("\n")
    else:
        text = click.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
    emit(f'password_hash: "{hash_of(text)}"', None)
    say(f"put this line under people: {name}: in access.yaml, instead of password:", quiet)
    say("existing logins end when the file is next read\nnext: evac access check access.yaml", quiet)


@access.command()
@click.argument("name")
@click.option(
    "--file",
    "file",
    required=True,
    type=FILE,
    help="File to write the secret to, for evac to read.",
)
@quiet_option
def totp(name: str, file: Path, quiet: bool) -> None:
    """Create a second factor for NAME: write its secret to FILE and print the URL for an authenticator app.

    Show the URL as a QR code or type it in. Anyone who sees it has the second factor.
    """
    import os

    from evac.model import extras

    try:
        from evac.web.access.passwords import new_totp
    except ImportError:
        raise extras.needs("serve", "evac access totp") from None
    secret, address = new_totp(name)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise InvalidInput("file-exists", f"{file} already exists", "choose another file") from None
    with os.fdopen(handle, "w") as target:
        target.write(secret + "\n")
    emit(address, None)
    say(f"put this under people: {name}: in access.yaml\n  totp: file:{file.absolute()}", quiet)


@access.command()
@where_options
@output_option("text", "json")
def logins(where: Where, output: str) -> None:
    """List who is signed in to the war rooms: how they signed in, since when, until when."""
    import json

    from evac.views.words import moment

    rows = where.do(lambda control: control.logins())
    if output == "json":
        emit(json.dumps({"schema_version": 1, "logins": [dict(row) for row in rows]}, indent=2) + "\n", None)
        return
    lines = [
        f"{row['id']}  {row['name']}  {row['proof']}{' ' + row['acr'] if row['acr'] else ''}  "
        f"since {moment(row['made_ms'])}, last seen {moment(row['seen_ms'])}, until {moment(row['until_ms'])}"
        for row in rows
    ]
    emit("\n".join(lines or ["no one is signed in"]) + "\n", None)


@access.command()
@click.argument("name")
@click.option("--login", default="", metavar="ID", help="Only this one, as `evac access logins` lists it.")
@where_options
@quiet_option
def logout(name: str, login: str, where: Where, quiet: bool) -> None:
    """End all logins of NAME at every war room, within seconds."""
    count = where.do(lambda control: control.end_logins(name, login))
    say(f"{count} login{'' if count == 1 else 's'} of {name} ended", quiet)


@access.command()
@where_options
@click.option(
    "--last", "length", type=Length(), default=0, help="Only the most recent part, like 24h. [default: all]"
)
@output_option("jsonl", "cef")
def log(where: Where, length: int, output: str) -> int:
    """Export who signed in, who was refused, what people requested, and how each identity was verified.

    One record per line: JSON, or CEF for a SIEM. Run journals are never shortened. What war rooms recorded
    is kept for as long as access_log of the policy says. `evac run verify access` proves that part, and
    `evac access archive` keeps it in files.

    Exit code 1: part of a journal is missing, changed or unreadable. The export contains all that can be
    read, and each damaged place is one line on stderr.
    """
    since_ms = now_ms() - length if length else 0
    line = json_line if output == "jsonl" else cef_line
    told = where.do(lambda control: control.access_log(since_ms))
    for row in told["items"]:
        emit(line(AccessRecord(**row)), None)
    for problem in (problems := told.get("problems", ())):
        say(f"error: {problem}")
    if problems:
        say("next: evac run verify access --estate ESTATE, then evac store repair JOURNAL")
    return console.FAILED if problems else console.DONE


@access.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--store", "url", envvar="EVAC_STORE", help="The store. [default: as for evac run list]")
@click.option("--check", "only_check", is_flag=True, help="Write nothing, and read only FOLDER.")
@quiet_option
def archive(folder: Path, url: str | None, only_check: bool, quiet: bool) -> int:
    """Archive what war rooms recorded, one file per month, and check the files.

    Run it often, at least once before the policy deletes a month: a file that already exists
    is extended. Each file is a hash chain, and each month names the end of the one before. So FOLDER proves
    itself without the store (--check), and the newest month, with heads at agents, proves all the others.
    """
    from evac.app.access_log import archive as archived
    from evac.app.access_log import check_archive

    found = check_archive(folder) if only_check else in_store(url, lambda store: archived(store, folder))
    for one in found:
        say(f"{one.chapter}: {one.head.records} records, sha256:{one.head.hash}", quiet)
        for problem in one.problems:
            say(f"error: {one.chapter}: {problem}")
    return console.FAILED if any(one.problems for one in found) else console.DONE


@access.command(name="list")
@click.argument("estate", type=click.Path(path_type=Path))
@click.option("--access", "file", type=FILE, help="Access file to use instead.")
@click.option("--policy", type=FILE, help="Another policy.")
@output_option("text", "json", "csv")
def list_all(estate: Path, file: Path | None, policy: Path | None, output: str) -> None:
    """List who may do what and how each person signs in, for periodic access reviews.

    Reads the access file and the policy in the folder of ESTATE: people, tokens, groups of the identity
    provider, approvers, and the keys of war rooms and controllers.
    """
    from evac.app.access import may_do

    made = {"text": may_text, "json": may_json, "csv": may_csv}[output]
    emit(made(may_do(estate, file, policy)), None)


@access.command(name="break-glass")
@click.option("--run", "run", default="", help="The run it is for.")
@click.option("--incident", default="", help="The incident whose run it is for, instead of --run.")
@click.option("--purpose", type=click.Choice(VERBS), required=True, help="The one request it allows.")
@click.option(
    "--who", required=True, metavar="PERSON", help="Person who signs; the access file must list their key."
)
@click.option("--reason", required=True, help="Reason, recorded in the journal with every use.")
@click.option(
    "--key",
    required=True,
    metavar="REFERENCE",
    help="Your private key: file:/path, env:NAME or command:/path.",
)
@click.option(
    "--minutes", type=click.IntRange(1, 1_440), default=60, show_default=True, help="Minutes of validity."
)
@click.option("--uses", type=click.IntRange(1, 100), default=1, show_default=True, help="Number of uses.")
@quiet_option
def break_glass(
    run: str,
    incident: str,
    purpose: str,
    who: str,
    reason: str,
    key: str,
    minutes: int,
    uses: int,
    quiet: bool,
) -> None:
    """Sign a credential offline for when no one can sign in: for one purpose and a limited time.

    It needs no network and no store. It replaces a login, never a role or the policy, and its use
    is recorded in the journal, in an alert and in the notes of the incident.
    """
    import secrets

    from evac.engine.runs import signatures as glass
    from evac.model.access import Grant

    if bool(run) == bool(incident):
        raise InvalidInput(
            "glass-invalid", "a credential must name either one run or one incident", "name one"
        )
    begin_ms = now_ms()
    until_ms = begin_ms + minutes * 60_000
    grant = Grant(secrets.token_hex(16), who, purpose, run, incident, begin_ms, until_ms, uses, reason)
    often = "once" if uses == 1 else f"{uses} times at most"
    emit(glass.issue(grant, _private_key(key)), None)
    say(
        f"{who} may request {purpose} of {run or incident}, {often}, for {minutes} minutes, "
        "in war rooms whose access file has the public key\n"
        "next: paste it into the sign-in page, or send it as Authorization: Bearer CREDENTIAL",
        quiet,
    )


def _private_key(reference: str) -> Ed25519PrivateKey:
    """The private key. Raises NotAllowed, Permanent, which never quote it."""
    from evac.engine.runs.signatures import parse_key, read_key
    from evac.net.secrets import secret_of

    if reference.startswith("file:/"):
        return read_key(Path(reference.removeprefix("file:")))
    return parse_key(secret_of(reference, whole=True).reveal_bytes(), reference.partition(":")[0])
