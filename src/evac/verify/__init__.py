"""The independent checker of plans and bounds: with `planning` it shares `derive`, `steps` and `model` only,
and what `derive` says of limits and power it derives again (`evac.verify.derivation`).

Rules F1 to F20 are those of docs/explanation/proof.md. A checker that cannot evaluate a rule
reports a violation: what cannot be checked is not safe.
"""

from evac.verify.check import Verdict, check, check_instance
from evac.verify.reading import Violation

__all__ = ["Verdict", "Violation", "check", "check_instance"]
