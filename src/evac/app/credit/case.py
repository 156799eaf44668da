"""A case: one folder with the windows, rules, accounts, ledgers and deliveries of one outage.

journal.jsonl            every decision, each line with the SHA-256 of the line before it
claims/<digest>.json     claims as they were imported
rules/<digest>.json      rule sets as they were used
accounts/<digest>/       accounts in partitions
ledgers/<id>/            one ledger: part-NNNN.parquet, part-NNNN.json, and ledger.json once complete
deliveries/<tranche>-N/  delivered files

Files are written once and never changed; only the journal grows. One process at a time changes a case. Rule
sets are shipped with evac or come from a file. An example input for October 2022 is included: published
figures of that outage are used, and the others are named assumptions, here and in the docs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from threading import Lock
from typing import Any, Final

import orjson

from evac.credit.ledger import Claim, Decision, decided
from evac.credit.ledger import problems_of as claims_problems
from evac.credit.rules import RuleSet
from evac.credit.windows import Correction, Window, Windows, problems_of
from evac.estate.codecs.credit_rules import check_rules, load_rules
from evac.model.diagnostic import Diagnostic
from evac.model.digest import canonical_json, digest
from evac.model.errors import Corrupt, EstateError, EvacError, InvalidInput, LockHeld
from evac.model.records import dataclass

JOURNAL: Final = "journal.jsonl"
_LOCK: Final = ".lock"
_FIRST: Final = "0" * 64
_SHIPPED = files("evac.app.credit") / "shipped"


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision. number: from 1."""

    number: int
    kind: str
    at_ms: int
    who: str
    data: Mapping[str, Any]


class Case:
    """A case folder, readable at any time and writable under `changing`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def entries(self) -> list[Entry]:
        """The whole journal. Raises InvalidInput if there is none, Corrupt if it was changed.

        An incomplete last line was being written when the process ended: it was never acknowledged.
        """
        path = self.folder / JOURNAL
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            hint = f"start with: evac credit windows {self.folder} --import FILE"
            raise InvalidInput("case-unknown", f"{self.folder} is not a credit case", hint) from None
        found, before = [], _FIRST
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
            try:
                row = orjson.loads(line)
                whole = row["previous"] == before and row["number"] == number
            except (orjson.JSONDecodeError, KeyError, TypeError):
                whole = False
            if not whole:
                raise Corrupt(f"{path} was changed at line {number}")
            found.append(Entry(number, row["kind"], row["at_ms"], row["who"], row["data"]))
            before = hashlib.sha256(line).hexdigest()
        return found

    @contextmanager
    def changing(self, create: bool = False) -> Iterator[None]:
        """Lock the case for this process. Raises LockHeld while another process changes it."""
        if create:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
        elif not (self.folder / JOURNAL).exists():
            self.entries()
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockHeld(str(self.folder), "another evac credit command") from None
            yield
        finally:
            os.close(handle)

    def record(self, kind: str, at_ms: int, who: str, data: Mapping[str, Any]) -> None:
        """Append a decision; durable on return. Call it under `changing`."""
        path = self.folder / JOURNAL
        known = path.read_bytes() if path.exists() else b""
        whole = known[: known.rfind(b"\n") + 1]
        lines = whole.splitlines()
        before = hashlib.sha256(lines[-1]).hexdigest() if lines else _FIRST
        row = {
            "number": len(lines) + 1,
            "previous": before,
            "kind": kind,
            "at_ms": at_ms,
            "who": who,
            "data": data,
        }
        with writing(path), path.open("r+b" if path.exists() else "x+b") as file:
            file.truncate(len(whole))
            file.seek(len(whole))
            file.write(canonical_json(row) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def windows(self) -> Windows:
        """The windows in the journal. Raises InvalidInput if there are none yet."""
        found: Windows | None = None
        for entry in self.entries():
            if entry.kind == "windows":
                rows = tuple(Window(**row) for row in entry.data["windows"])
                old = found or Windows(())
                found = Windows((*old.recorded, *rows), old.corrections)
            elif entry.kind == "correction" and found is not None:
                found = Windows(found.recorded, (*found.corrections, Correction(**entry.data)))
        if found is None:
            hint = f"evac credit windows {self.folder} --import FILE"
            raise InvalidInput("windows-missing", f"{self.folder} has no outage windows yet", hint)
        return found

    def add_windows(self, found: Sequence[Window], at_ms: int, who: str) -> int:
        """Record windows; return how many are new. The first ones make the folder a case.

        Windows recorded before are skipped, even if corrected since. Raises EstateError for contradictions
        among them or with recorded ones.
        """
        begun = (self.folder / JOURNAL).exists()
        if not begun and (problems := problems_of(found)):
            raise EstateError(problems, "windows")
        with self.changing(create=True):
            windows = self.windows() if begun else Windows(())
            known = {window.id: window.to_data() | {"source": ""} for window in windows.recorded}
            new = [one for one in found if known.get(one.id) != one.to_data() | {"source": ""}]
            problems = problems_of((*windows.now, *new))
            if problems:
                raise EstateError(problems, "windows")
            if new:
                self.record("windows", at_ms, who, {"windows": [window.to_data() for window in new]})
            return len(new)

    def add_claims(self, found: Sequence[Claim], at_ms: int, who: str) -> int:
        """Record claims; return how many are new. Identical recorded claims are skipped.

        Raises EstateError for different claims with the same ids. Call it outside `changing`.
        """
        with self.changing():
            known = {claim.id: claim for claim in self.claims()}
            new = [one for one in found if one.id not in known or one.to_data() != known[one.id].to_data()]
            problems = claims_problems((*known.values(), *new))
            if problems:
                raise EstateError(problems, "claims")
            if new:
                rows = [claim.to_data() for claim in new]
                name = digest(rows).removeprefix("sha256:")
                write_once(self.folder / "claims" / f"{name}.json", canonical_json(rows) + b"\n")
                self.record("claims", at_ms, who, {"claims": name, "count": len(new)})
            return len(new)

    def claims(self) -> list[Claim]:
        """All recorded claims."""
        found: list[Claim] = []
        for entry in self.entries():
            if entry.kind == "claims":
                rows = orjson.loads((self.folder / "claims" / f"{entry.data['claims']}.json").read_bytes())
                found += [Claim(**row) for row in rows]
        return found

    def decide(self, decision: Decision, currency: str = "") -> None:
        """Record a decision about a claim. Raises InvalidInput. Call it outside `changing`."""
        with self.changing():
            made = decided(self.claims(), decision, currency)
            self.record("claim-decided", made.at_ms, made.who, made.to_data())

    def decisions(self) -> list[Decision]:
        """Decisions in the order in which they were made."""
        return [Decision(**entry.data) for entry in self.entries() if entry.kind == "claim-decided"]

    def ledger(self, id: str = "") -> dict[str, Any]:
        """The document of a ledger, by default the last one. Raises InvalidInput if there is none."""
        if not id:
            made = [entry for entry in self.entries() if entry.kind == "computed"]
            if not made:
                words = f"{self.folder} has no ledger yet"
                raise InvalidInput("ledger-missing", words, self.compute_command())
            id = str(made[-1].data["ledger"])
        document: dict[str, Any] = orjson.loads((self.folder / "ledgers" / id / "ledger.json").read_bytes())
        return document

    def compute_command(self) -> str:
        """The command that computes the next ledger, with the files of the last one."""
        made = [entry.data for entry in self.entries() if entry.kind == "computed"]
        last = made[-1] if made else {}
        rules, files = last.get("rules_from") or "RULES", last.get("accounts_from") or ["FILE"]
        words = ["evac", "credit", "compute", str(self.folder), "--rules", rules]
        return shlex.join([*words, *(word for file in files for word in ("--accounts", file))])


def write_once(path: Path, data: bytes) -> None:
    """Write a file atomically and durably. An existing file stays."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    with writing(path):
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise EvacError for a file that cannot be written; files finished before stay. New files are for their
    owner only: they have accounts and amounts.

    Polars and DuckDB wrap operating system errors in errors of their own, and know no mode of a file.
    """
    try:
        with _OWNER_ONLY:
            yield
    except EvacError:
        raise
    except Exception as error:
        words = _system_words(error)
        if not words:
            raise
        hint = "free some space or choose another folder, then run the same command again: it continues"
        raise EvacError("case-unwritable", f"cannot write {path}: {words}", hint) from error


class _OwnerOnly:
    """New files of this process are for their owner only while any thread is inside: all threads share the
    mask, so only the last one that leaves restores it.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._mask = Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._mask = os.umask(0o077)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os.umask(self._mask)


_OWNER_ONLY: Final = _OwnerOnly()


def _system_words(error: Exception) -> str:
    """The message of the operating system; empty if the error did not come from it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = re.search(r"([A-Z][A-Za-z -]*) \(os error \d+\)", str(error)) or re.search(
        r"(No space left on device|Disk quota exceeded)", str(error)
    )
    return found[1] if found else ""


def shipped_names() -> tuple[str, ...]:
    """Names that can be given instead of a file."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _SHIPPED.iterdir() if f.name.endswith(".yaml")))


def shipped_text(name: str) -> str:
    """The text of a shipped rule set, to copy and change. Raises InvalidInput for an unknown name."""
    if name not in shipped_names():
        hint = f"give a file, or one of: {', '.join(shipped_names())}"
        raise InvalidInput("rules-unknown", f"no such file or rule set: {name[:80]}", hint)
    return (_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")


def check(name: str) -> tuple[RuleSet | None, tuple[Diagnostic, ...]]:
    """The rule set of a file or of that name, and all its problems."""
    if Path(name).exists():
        return check_rules(Path(name))
    shipped_text(name)
    with as_file(_SHIPPED / f"{name}.yaml") as path:
        return check_rules(path)


def load(name: str) -> RuleSet:
    """The rule set, as `check` reads it. Raises EstateError with every problem."""
    if Path(name).exists():
        return load_rules(Path(name))
    shipped_text(name)
    with as_file(_SHIPPED / f"{name}.yaml") as path:
        return load_rules(path)


USERS: Final = 47_000_000
"""Monthly users of the messenger (published)."""
REPORTS: Final = 87_198
"""Reports about services of the company itself (published; 105,116 with its subsidiaries)."""
BUSINESS_PERMILLE: Final = 102
"""Share of reports from small businesses (published)."""
SUBSCRIBERS_PERCENT: Final = 10
"""Assumption: this share of users pays for music."""
STORE_PERCENT: Final = 10
"""Assumption: this share of subscribers pays through an app store, which cannot move a billing day."""
MUSIC_FEE: Final = 10_900
"""Assumption: every subscriber has the plan with this price, in won a month."""
LOSSES: Final = (*(200_000,) * 12, *(400_000,) * 5, *(900_000,) * 3)
"""Assumption: of 20 claims 12 are in the first band, 5 in the second, and 3 above both."""
SAMPLE: Final = 470_000

WINDOWS: Final = """id,service,from,to,users
talk,talk,2022-10-15T15:33:00+09:00,2022-10-16T01:31:00+09:00,100 %
melon,melon,2022-10-15T15:33:00+09:00,2022-10-16T12:00:00+09:00,100 %
talk-business,talk-business,2022-10-15T15:33:00+09:00,2022-10-20T23:06:00+09:00,100 %
"""
"""Talk: until messages could be sent again; music: assumption; business: 127 hours and 33 minutes,
published.
"""


def write(folder: Path, accounts: int = SAMPLE) -> None:
    """Write the three files, always with the same bytes. Raises InvalidInput if the folder has files in
    it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput("folder-not-empty", f"{folder} is not empty", "choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "windows.csv").write_text(WINDOWS, encoding="utf-8")
    (folder / "rules.yaml").write_text(_rules(), encoding="utf-8")
    _accounts(accounts).write_parquet(folder / "accounts.parquet", compression="zstd")


def _rules() -> str:
    """The two shipped rule sets of that month merged into one."""
    head = 'credit_rules: 1\nid: october-2022\ntitle: Outage of 15 October 2022\nzone: "+09:00"\nrules:\n'
    bodies = (shipped_text(name).partition("rules:\n")[2] for name in ("melon-2022", "kakao-2022"))
    return head + "".join(bodies)


def _accounts(count: int) -> Any:
    """One messenger row for each account, one music row for each subscriber, one row for each claim."""
    import polars as pl

    claims = count * REPORTS * BUSINESS_PERMILLE // (1_000 * USERS)
    number = pl.int_range(count, eager=True).alias("number")
    users = pl.DataFrame(number)
    music = users.filter(pl.col("number") % (100 // SUBSCRIBERS_PERCENT) == 0)
    store = pl.col("number") % (100 // SUBSCRIBERS_PERCENT * (100 // STORE_PERCENT)) == 0
    shops = users.filter(pl.col("number") % max(1, count // max(1, claims)) == 0).head(claims)
    losses = pl.Series([LOSSES[i % len(LOSSES)] for i in range(len(shops))], dtype=pl.Int64)
    empty = {"channel": pl.lit(""), "claimed": pl.lit(0, pl.Int64)}
    parts = (
        users.with_columns(service=pl.lit("talk"), plan=pl.lit("free"), fee=pl.lit(0, pl.Int64), **empty),
        music.with_columns(
            service=pl.lit("melon"),
            plan=pl.lit("streaming"),
            fee=pl.lit(MUSIC_FEE, pl.Int64),
            channel=pl.when(store).then(pl.lit("app-store")).otherwise(pl.lit("")),
            claimed=pl.lit(0, pl.Int64),
        ),
        shops.with_columns(
            service=pl.lit("talk-business"),
            plan=pl.lit("free"),
            fee=pl.lit(0, pl.Int64),
            channel=pl.lit(""),
            claimed=losses,
        ),
    )
    rows = pl.concat(parts)
    account = pl.format("u{}", pl.col("number").cast(pl.String).str.zfill(8))
    return rows.select(
        account.alias("account"),
        "service",
        "plan",
        "fee",
        pl.lit("KRW").alias("currency"),
        pl.lit("2022-10").alias("cycle"),
        "channel",
        "claimed",
    )
