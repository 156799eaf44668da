"""Rule sets that come with evac, and those of a file."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

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
