"""Rule sets that come with evac, those of a file, and the input of October 2022, to try credits with.

What was published of that outage is taken from it; what was not is an assumption, and each has a name here
and on the page of the documentation that shows the totals next to the published ones.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from evac.credit.rules import RuleSet
from evac.estate.codecs.credit_rules import check_rules, load_rules
from evac.model.diagnostic import Diagnostic
from evac.model.errors import InvalidInput

_SHIPPED = files("evac.app.credit") / "shipped"


def shipped_names() -> tuple[str, ...]:
    """Names that can be given instead of a file."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _SHIPPED.iterdir() if f.name.endswith(".yaml")))


def shipped_text(name: str) -> str:
    """The file of a shipped rule set, to copy and change. Raises InvalidInput for a name that is none."""
    if name not in shipped_names():
        hint = f"name a file, or one of: {', '.join(shipped_names())}"
        raise InvalidInput("rules-unknown", f"there is no file and no rule set {name[:80]}", hint)
    return (_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")


def check(name: str) -> tuple[RuleSet | None, tuple[Diagnostic, ...]]:
    """The rule set of a file or of that name, and every problem of it."""
    if Path(name).exists():
        return check_rules(Path(name))
    shipped_text(name)
    with as_file(_SHIPPED / f"{name}.yaml") as path:
        return check_rules(path)


def load(name: str) -> RuleSet:
    """As `check`. Raises EstateError with every problem."""
    if Path(name).exists():
        return load_rules(Path(name))
    shipped_text(name)
    with as_file(_SHIPPED / f"{name}.yaml") as path:
        return load_rules(path)


USERS: Final = 47_000_000
"""Monthly users of the messenger, published."""
REPORTS: Final = 87_198
"""Reports about services of the company itself, published (105,116 with its subsidiaries)."""
BUSINESS_PERMILLE: Final = 102
"""Of the reports: by small businesses, published."""
SUBSCRIBERS_PERCENT: Final = 10
"""Assumption: so many users pay for music."""
STORE_PERCENT: Final = 10
"""Assumption: so many subscribers pay through a store that cannot move a billing day."""
MUSIC_FEE: Final = 10_900
"""Assumption: every subscriber has the plan of this price, in won a month."""
LOSSES: Final = (*(200_000,) * 12, *(400_000,) * 5, *(900_000,) * 3)
"""Assumption: of 20 claims 12 are in the first band, 5 in the second, and 3 above both."""
SAMPLE: Final = 470_000

WINDOWS: Final = """id,service,from,to,users
talk,talk,2022-10-15T15:33:00+09:00,2022-10-16T01:31:00+09:00,100 %
melon,melon,2022-10-15T15:33:00+09:00,2022-10-16T12:00:00+09:00,100 %
talk-business,talk-business,2022-10-15T15:33:00+09:00,2022-10-20T23:06:00+09:00,100 %
"""
"""Talk: until messages were sent again; music: assumption; business: 127 hours and 33 minutes, published."""


def write(folder: Path, accounts: int = SAMPLE) -> None:
    """The three files, the same every time. Raises InvalidInput for a folder with files in it."""
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput("folder-not-empty", f"{folder} is not empty", "name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "windows.csv").write_text(WINDOWS, encoding="utf-8")
    (folder / "rules.yaml").write_text(_rules(), encoding="utf-8")
    _accounts(accounts).write_parquet(folder / "accounts.parquet", compression="zstd")


def _rules() -> str:
    """The two shipped rule sets of that month as one."""
    head = 'credit_rules: 1\nid: october-2022\ntitle: Outage of 15 October 2022\nzone: "+09:00"\nrules:\n'
    bodies = (shipped_text(name).partition("rules:\n")[2] for name in ("melon-2022", "kakao-2022"))
    return head + "".join(bodies)


def _accounts(count: int) -> Any:
    """One row for the messenger of each account, one for music of a subscriber, one for a claim."""
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
