"""Lower bounds: a number below the objective of every plan, with a certificate that proves it."""

from __future__ import annotations

from evac.planning.bound.solve import BoundResult, Draft, bound, bound_of, draft_of

__all__ = ["BoundResult", "Draft", "bound", "bound_of", "draft_of"]
