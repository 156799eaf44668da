"""The rules: every module of this folder is one rule, in the order of their codes."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from evac.audit.context import Rule


def _rules() -> tuple[Rule, ...]:
    found: list[Rule] = [import_module(f"{__name__}.{m.name}").RULE for m in iter_modules(__path__)]
    return tuple(sorted(found, key=lambda rule: rule.code))


RULES: Final = _rules()
"""Every rule that checks an estate. Suppressions have three more, EV190 to EV192."""
