"""Lower bounds: a number below the objective of every plan, with a certificate that proves it."""

from __future__ import annotations

from evac.planning.bound.solve import BoundResult, bound

__all__ = ["BoundResult", "bound"]
