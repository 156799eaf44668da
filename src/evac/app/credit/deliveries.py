"""From a ledger to deliveries: two people approve, tranches are released in order, each delivery contains
only what no earlier one did, and bookings of the billing system are reconciled exactly.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, get_args

import orjson
import polars as pl

from evac.app.credit.case import Case, writing
from evac.app.credit.computing import ledger_digest, part_file
from evac.app.credit.intake import HASH_SEED
from evac.app.credit.showing import ledger_rules
from evac.credit.columns import KEY, LINES, tax_on_top
from evac.credit.ledger import APPROVALS, TRANCHES, CreditApproval, Tranche, delivery_key, judged, line_id
from evac.credit.requests import LeftOut, Request, booked_of, request_of
from evac.credit.rules import MONEY, RuleSet
from evac.engine.runs.signatures import check, read_key, sign
from evac.model.access import Proven
from evac.model.errors import InvalidInput, NotAllowed
from evac.model.names import alike
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy

UNPROVEN: Final = Proven()
Change = Literal["closed", "reopened"]
"""Change of a tranche."""
_GROUP: Final = (*KEY, "group", "currency")
_SUMS: Final = ("amount", "quantity", "tax")


def approve(
    case: Case,
    who: str,
    reason: str,
    key: Path | None,
    policy: RunPolicy | None,
    now_ms: int,
    seen: Proven = UNPROVEN,
) -> list[dict[str, Any]]:
    """Approve the last ledger; return all its approvals. Call it under `case.changing`.

    With a policy, only signatures of its approvers count. seen: the person's proof to a war room, which
    checked the permission. Raises NotAllowed, InvalidInput.
    """
    document = case.ledger()
    _check_current(case, document)
    digest = ledger_digest(document)
    if not who.strip() or not reason.strip():
        raise InvalidInput("reason-missing", "an approval needs a person and a reason", "add --reason WHY")
    known = approvals(case, document)
    if any(alike(row["who"]) == alike(who) for row in known):
        hint = f"another person must approve: {APPROVALS} people in total"
        raise NotAllowed("approved-already", f"{who[:80]} has already approved this ledger", hint)
    approval = CreditApproval(case.name, digest, document["envelope"], who, reason)
    signature = "" if key is None else sign(approval, read_key(key))
    if policy is not None and policy.approvers:
        check(approval, signature, policy)
    proven = "signature" if policy is not None and policy.approvers else seen.words
    data = {"ledger": digest, "reason": reason, "signature": signature, "proven": proven}
    case.record("approved", now_ms, who, data)
    return approvals(case, document)


def _check_current(case: Case, document: Mapping[str, Any]) -> None:
    """Raise InvalidInput for an outdated ledger: windows were corrected since, or a person decided that a
    claim gets less than the ledger pays.
    """
    windows, why = case.windows(), ""
    if document["windows"]["digest"] != windows.digest:
        why = "windows have changed"
    else:
        kinds = [entry.kind for entry in case.entries()]
        since = kinds[::-1].index("computed")
        late = kinds[len(kinds) - since :].count("claim-decided")
        if late:
            rules, claims, decisions = ledger_rules(case, document), case.claims(), case.decisions()
            before, now = (
                {one.claim.id: one.pays for one in judged(rules, windows.now, claims, made)}
                for made in (decisions[:-late], decisions)
            )
            less = sorted(claim for claim, pays in before.items() if now[claim] < pays)
            why = f"a decision reduced claim {less[0]}" if less else ""
    if why:
        words = f"{why} since ledger {document['ledger']} was computed"
        raise InvalidInput("ledger-stale", words, case.compute_command())


def approvals(case: Case, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Approvals of exactly this ledger: any changed line makes a new ledger, which needs new approvals."""
    digest = ledger_digest(document)
    return [
        {
            "who": entry.who,
            "at_ms": entry.at_ms,
            "reason": entry.data["reason"],
            "proven": entry.data["proven"],
        }
        for entry in case.entries()
        if entry.kind == "approved" and entry.data["ledger"] == digest
    ]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery."""

    name: str
    """`paying-1`"""
    tranche: Tranche
    ledger: str
    partitions: int
    """It has this many files, each with the accounts of one partition of its ledger."""
    lines: int
    amounts: Mapping[str, int]
    """Currency -> minor units, including tax added on top."""
    overpaid: Mapping[str, int]
    """Currency -> what an earlier delivery overpaid; nothing is reclaimed."""


def deliveries(case: Case) -> list[Delivery]:
    """Deliveries in order."""
    return [
        Delivery(**{name: entry.data[name] for name in Delivery.__dataclass_fields__})
        for entry in case.entries()
        if entry.kind == "released"
    ]


def closed(case: Case) -> frozenset[str]:
    """Tranches that are closed and were not reopened."""
    last = {entry.data["tranche"]: entry.kind for entry in case.entries() if entry.kind in get_args(Change)}
    return frozenset(str(tranche) for tranche, kind in last.items() if kind == "closed")


def open_or_close(case: Case, tranche: Tranche, change: Change, who: str, reason: str, now_ms: int) -> None:
    """Close or reopen a tranche; a closed one releases nothing more. Raises InvalidInput before its first
    delivery.
    """
    _check_reason(reason, f"evac credit tranche {case.folder} {tranche} --{change[:-2]} --reason WHY")
    if not any(one.tranche == tranche for one in deliveries(case)):
        hint = f"release it first: evac credit tranche {case.folder} {tranche} --reason WHY"
        raise InvalidInput("tranche-not-released", f"nothing in the {tranche} tranche was released", hint)
    if (tranche in closed(case)) == (change == "closed"):
        state = "closed" if change == "closed" else "open"
        words = f"the {tranche} tranche is already {state}"
        raise InvalidInput(f"tranche-{state}", words, f"evac credit show {case.folder}")
    case.record(change, now_ms, who, {"tranche": tranche, "reason": reason})


def _check_reason(reason: str, hint: str) -> None:
    if not reason.strip():
        raise InvalidInput("reason-missing", "starting or stopping payment needs a reason", hint)


def release(case: Case, rules_digest: str, tranche: Tranche, who: str, reason: str, now_ms: int) -> Delivery:
    """Make the next delivery of a tranche from the last ledger. Call it under `case.changing`.

    Raises NotAllowed without two approvals, and for the free tranche before the paying one is closed;
    InvalidInput if nothing is owed beyond earlier deliveries.
    """
    _check_reason(reason, f"evac credit tranche {case.folder} {tranche} --reason WHY")
    document = case.ledger()
    _check_current(case, document)
    have = approvals(case, document)
    if len(have) < APPROVALS:
        hint = f"evac credit approve {case.folder} --reason WHY"
        words = f"{len(have)} of {APPROVALS} people have approved ledger {document['ledger']}"
        raise NotAllowed("approvals-missing", words, hint)
    shut = closed(case)
    if tranche in shut:
        hint = f"evac credit tranche {case.folder} {tranche} --reopen --reason WHY"
        raise NotAllowed("tranche-closed", f"the {tranche} tranche is closed", hint)
    paying = any(row["tranche"] == "paying" for row in document["envelope"])
    if tranche == "free" and paying and "paying" not in shut:
        hint = f"evac credit tranche {case.folder} paying --close --reason WHY"
        raise NotAllowed("paying-first", "the paying tranche is not closed yet", hint)
    before = deliveries(case)
    name = f"{tranche}-{1 + sum(one.tranche == tranche for one in before)}"
    folder = case.folder / "deliveries" / name
    shutil.rmtree(folder, ignore_errors=True)  # left by a release that was interrupted before being recorded
    count, amounts, over = 0, dict[str, int](), dict[str, int]()
    with writing(folder):
        folder.mkdir(parents=True)
        for number in range(document["partitions"]):
            made, overpaid = _differences(case, document, rules_digest, tranche, before, number)
            made.write_parquet(_part(folder, number))
            count += len(made)
            for sums, lines in ((amounts, made), (over, overpaid)):
                money = lines.filter(pl.col("group") == "money")
                amount_of = money.group_by("currency").agg((pl.col("amount") + tax_on_top()).sum())
                for currency, amount in amount_of.rows():
                    sums[currency] = sums.get(currency, 0) + amount
    last = next((one for one in reversed(before) if one.tranche == tranche), None)
    if not count and last is not None and _sorted(over) in (last.overpaid, {}):
        shutil.rmtree(folder)
        words = f"nothing more is owed for the {tranche} tranche: {last.name} was the last delivery"
        raise InvalidInput("nothing-owed", words, f"evac credit show {case.folder}")
    delivery = Delivery(
        name, tranche, document["ledger"], document["partitions"], count, _sorted(amounts), _sorted(over)
    )
    fields = {name: getattr(delivery, name) for name in Delivery.__dataclass_fields__}
    case.record("released", now_ms, who, fields | {"reason": reason})
    return delivery


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:04}.parquet"


def _sorted(sums: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(sums.items()))


def _paid(case: Case, before: Sequence[Delivery], partitions: int, number: int) -> list[pl.LazyFrame]:
    """Amounts of earlier deliveries for the accounts of one of `partitions` partitions."""
    found = []
    for one in before:
        folder = case.folder / "deliveries" / one.name
        if one.partitions == partitions:
            found.append(pl.scan_parquet(_part(folder, number)))
        else:
            here = (pl.col("account").hash(HASH_SEED) % partitions) == number
            found.append(pl.scan_parquet(folder / "part-*.parquet").filter(here))
    return found


def _differences(
    case: Case,
    document: dict[str, Any],
    rules_digest: str,
    tranche: Tranche,
    before: Sequence[Delivery],
    number: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(still owed, overpaid) of a tranche in one partition, compared with all earlier deliveries."""
    file = part_file(case.folder / "ledgers" / document["ledger"], number)
    group = pl.when(pl.col("kind").is_in(list(MONEY))).then(pl.lit("money")).otherwise(pl.col("kind"))
    rest = [name for name in LINES.names() if name not in (*_GROUP, *_SUMS)]
    owed = (
        pl.scan_parquet(file)
        .filter(pl.col("state") == "due")
        .with_columns(group.alias("group"))
        .group_by(_GROUP, maintain_order=True)
        .agg(pl.col(_SUMS).sum(), pl.col(rest).first())
        .collect()
    )
    earlier = _paid(case, before, document["partitions"], number)
    paid = (
        pl.concat(earlier).collect()
        if earlier
        else owed.head(0).with_columns(pl.lit("").alias("id"), pl.lit("").alias("key"))
    )
    sums = paid.group_by(_GROUP).agg(
        pl.col(_SUMS).sum().name.suffix("_paid"),
        pl.len().alias("times"),
        pl.col(rest).first().name.suffix("_paid"),
    )
    both = owed.join(sums, on=_GROUP, how="full", coalesce=True, maintain_order="left_right")
    both = both.with_columns(
        *(pl.col(name).fill_null(0) - pl.col(f"{name}_paid").fill_null(0) for name in _SUMS),
        *(pl.coalesce(name, f"{name}_paid").alias(name) for name in rest),
        pl.col("times").fill_null(0),
    ).filter(pl.col("tranche") == tranche)
    more = (pl.col("amount") > 0) | (pl.col("quantity") > 0)
    less = ~more & ((pl.col("amount") < 0) | (pl.col("quantity") < 0))
    found = both.filter(more)
    names = ("rule", *KEY)
    ids = [
        line_id(rules_digest, rule, account, service, cycle)
        for rule, account, service, cycle in found.select(names).iter_rows()
    ]
    keys = [delivery_key(id, times + 1) for id, times in zip(ids, found.get_column("times"), strict=True)]
    columns = [*LINES.names(), "group"]
    made = found.select(columns).with_columns(
        pl.Series("id", ids, pl.String), pl.Series("key", keys, pl.String)
    )
    return made, both.filter(less).select(columns).with_columns(pl.col(_SUMS).abs())


def export(case: Case, rules: RuleSet, name: str, system: str, folder: Path) -> dict[str, Any]:
    """Files of one delivery for one system: requests as JSON lines, or CSV; lines that the system cannot take
    are in a separate file, and so are those that a spreadsheet would run. The same delivery always gives the
    same bytes.
    """
    made = _known(case, name)
    parts = [_part(case.folder / "deliveries" / name, number) for number in range(made.partitions)]
    order = ["key", "id", *(column for column in LINES.names() if column != "fee"), "total"]
    file = f"{name}.csv" if system == "csv" else f"{name}-{system}.jsonl"
    rest = f"{name}-{system}-left-out.csv"
    folder.mkdir(parents=True, exist_ok=True)
    done, left_out = 0, 0
    with writing(folder / file):
        with _whole(folder / file) as lines, _whole(folder / rest) as left:
            left.write(b"key,reason\n")
            for number, part in enumerate(parts):
                rows = pl.read_parquet(part)
                if system == "csv":
                    total = (pl.col("amount") + tax_on_top()).alias("total")
                    unsafe = rows.filter(_is_formula(rows))
                    for key in unsafe.get_column("key"):
                        left.write(f"{key},{_FORMULA}\n".encode())
                    left_out += len(unsafe)
                    rows = rows.filter(~_is_formula(rows)).with_columns(total).select(order)
                    rows.write_csv(lines, include_header=number == 0)
                    done += len(rows)
                    continue
                for row in rows.iter_rows(named=True):
                    request = _request(system, rules, row)
                    if isinstance(request, LeftOut):
                        left.write(f"{request.key},{request.reason}\n".encode())
                        left_out += 1
                    else:
                        lines.write(orjson.dumps(request.to_data(), option=orjson.OPT_SORT_KEYS) + b"\n")
                        done += 1
        if not left_out:
            (folder / rest).unlink()
    files = [file] + ([rest] if left_out else [])
    return {"files": files, "lines": done, "left_out": left_out}


_FORMULA: Final = "a spreadsheet would run one of its cells as a formula; export it for a billing system"


def _is_formula(rows: pl.DataFrame) -> pl.Expr:
    """Whether a spreadsheet would run a cell of a row as a formula. Cells are not changed to prevent that:
    then they would name another account. A number with a sign, such as that of a telephone, is no formula.
    """
    texts = pl.selectors.string()
    signed = r"^\s*[+\-\uFF0B\uFF0D].*[^0-9 ().-]"
    runs = texts.str.contains(r"^\s*[=@\uFF1D\uFF20]") | texts.str.contains(signed)
    return pl.any_horizontal(runs.fill_null(False))


def _request(system: str, rules: RuleSet, row: Mapping[str, Any]) -> Request | LeftOut:
    """One delivery line as a request of the system."""
    rule = next((one for one in rules.rules if one.id == row["rule"]), None)
    title = row["rule"] if rule is None else rules.title or rules.id
    more = {
        "expires_days": 0 if rule is None else rule.expires_days,
        "reason": f"{title}: {row['service']} {row['cycle']}",
    }
    return request_of(system, {**row, **more})


def _known(case: Case, name: str) -> Delivery:
    found = {one.name: one for one in deliveries(case)}
    if name not in found:
        made = f"evac credit tranche {case.folder} paying --reason WHY"
        hint = f"deliveries: {', '.join(found)}" if found else f"create the first one: {made}"
        raise InvalidInput("delivery-unknown", f"no such delivery: {name[:60]}", hint)
    return found[name]


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that appears only once completely written."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as stream:
            yield stream
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


MISMATCHES_MOST: Final = 1_000


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A line that the system booked differently or not at all, or booked without a request."""

    key: str
    code: Literal["differs", "missing", "twice", "unknown"]
    wanted: int
    booked: int
    currency: str


@dataclass(frozen=True, slots=True)
class Reconciled:
    """same: matching lines. left_out: lines that the system cannot take and was not sent. wrong: the first of
    the mismatches.
    """

    same: int
    left_out: int
    different: int
    wrong: Sequence[Mismatch]


def reconcile(case: Case, rules: RuleSet, name: str, booked: Path, system: str) -> Reconciled:
    """Compare a delivery with what the system booked.

    booked: for `csv` a CSV file with the columns key, amount (minor units) and currency; else JSON as the API
    of the system lists it, in one document or one a line.
    """
    _known(case, name)
    lines = pl.read_parquet(case.folder / "deliveries" / name / "part-*.parquet")
    in_kind = lines.filter(pl.col("group") != "money").get_column("key")
    lines = lines.filter(pl.col("group") == "money")
    left_out = 0
    if system == "csv":
        found = _booked_csv(booked)
        idle = pl.col("key").is_in(in_kind.implode()) & (pl.col("booked") == 0)
        left_out = found.filter(idle).height
        found = found.filter(~idle)
    else:
        asked = [not isinstance(_request(system, rules, row), LeftOut) for row in lines.iter_rows(named=True)]
        left_out = len(asked) - sum(asked)
        lines = lines.filter(pl.Series(asked, dtype=pl.Boolean))
        found = _of_delivery(case, name, lines, _booked_json(booked, system))
    wanted = lines.select(
        "key", (pl.col("amount") + tax_on_top()).alias("wanted"), pl.col("currency").alias("asked")
    )
    return _compared(wanted, found, left_out)


def _booked_csv(file: Path) -> pl.DataFrame:
    try:
        return pl.read_csv(file, infer_schema=False).select(
            "key", pl.col("amount").cast(pl.Int64).alias("booked"), "currency"
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        hint = "columns: key, amount in minor units, currency"
        raise _unreadable(file, error, hint) from error


def _booked_json(file: Path, system: str) -> pl.DataFrame:
    try:
        text = file.read_text(encoding="utf-8")
        try:
            documents = [json.loads(text, parse_float=str)]
        except ValueError:
            documents = [json.loads(line, parse_float=str) for line in text.splitlines() if line.strip()]
        rows = [(one.key, one.minor, one.currency) for one in booked_of(system, documents)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = f"save the objects that the API of {system} lists, as one JSON document or one object per line"
        raise _unreadable(file, error, hint) from error
    schema = {"key": pl.String, "booked": pl.Int64, "currency": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


def _unreadable(file: Path, error: Exception, hint: str) -> InvalidInput:
    words = (str(error) or type(error).__name__).splitlines()[0][:120]
    if isinstance(error, KeyError):
        words = f"an object has no {words}"
    return InvalidInput("booked-unreadable", f"{file.name} cannot be used: {words}", hint)


def _of_delivery(case: Case, name: str, lines: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Drop bookings of other deliveries and outages: a system lists all of them."""
    ids = lines.get_column("id").unique()
    here = found.filter(pl.col("key").str.extract("^(.*)-").is_in(ids.implode()))
    for one in deliveries(case):
        if one.name != name:
            keys = pl.read_parquet(case.folder / "deliveries" / one.name / "part-*.parquet", columns=["key"])
            here = here.filter(~pl.col("key").is_in(keys.get_column("key").implode()))
    return here


def _compared(wanted: pl.DataFrame, found: pl.DataFrame, left_out: int) -> Reconciled:
    twice = found.group_by("key").len().filter(pl.col("len") > 1).get_column("key")
    both = wanted.join(
        found.unique("key", keep="first", maintain_order=True), on="key", how="full", coalesce=True
    )
    same = (
        pl.col("wanted").eq_missing(pl.col("booked"))
        & pl.col("asked").eq_missing(pl.col("currency"))
        & ~pl.col("key").is_in(twice.implode())
    )
    differ = both.filter(~same)
    wrong = []
    for key, asked_amount, asked, amount, currency in differ.sort("key").head(MISMATCHES_MOST).rows():
        code = "differs"
        if asked_amount is None:
            code = "unknown"
        elif amount is None:
            code = "missing"
        elif key in set(twice):
            code = "twice"
        wrong.append(Mismatch(key, code, asked_amount or 0, amount or 0, currency or asked or ""))  # type: ignore[arg-type]
    return Reconciled(both.height - differ.height, left_out, differ.height, wrong)


def states(case: Case) -> Iterator[dict[str, Any]]:
    """State of each tranche, open or closed, and its deliveries."""
    shut = closed(case)
    for tranche in TRANCHES:
        made = [one for one in deliveries(case) if one.tranche == tranche]
        yield {
            "tranche": tranche,
            "closed": tranche in shut,
            "deliveries": [
                {
                    "name": one.name,
                    "ledger": one.ledger,
                    "lines": one.lines,
                    "amounts": dict(one.amounts),
                    "overpaid": dict(one.overpaid),
                }
                for one in made
            ],
        }
