"""What people are told to type when a plan or a run waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NAMED_BY: Final = len("sha256:") + 12


def to_approve(run: str, names: Sequence[str] = ()) -> str:
    """The command with which a person agrees."""
    return f"evac approve {run}{''.join(f' --confirm {name}' for name in names)} --reason WHY"


def to_apply(plan: str, lost: Sequence[str]) -> str:
    """The command with which a person carries out a plan that lies in the store; as much of its digest as
    people can read to each other.
    """
    typed = "".join(f" --confirm {name}" for name in lost)
    return f"evac apply {plan[:NAMED_BY]} ESTATE --execute{typed} --reason WHY"
