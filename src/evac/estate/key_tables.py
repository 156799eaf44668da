"""Tables of keys for reference pages: made from the fields that the reader of a file works from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from evac.estate.format.kinds import Field, Listed, Scalar


def key_table(fields: Iterable[Field], absent: Callable[[Field], str]) -> list[str]:
    """Lines of Markdown. absent: what holds where a key is left out."""
    rows = ["| key | value | meaning | if left out |", "|---|---|---|---|"]
    return [*rows, *(f"| `{f.key}` | {f.kind.words} | {f.doc} | {absent(f)} |" for f in fields)]


def shown_default(spec: Field) -> str:
    """The default of a plain value, or of a list of them, as a file would say it."""
    kind: Any = spec.kind
    if isinstance(kind, Listed):
        return ", ".join(f"`{kind.item.show(item)}`" for item in spec.default)
    assert isinstance(kind, Scalar)
    return f"`{kind.show(spec.default)}`"
