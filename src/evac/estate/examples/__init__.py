"""Example companies of any size, made from a seed: nothing is read, nothing is timed."""

from __future__ import annotations

from evac.estate.examples.build import describe, pangyo

__all__ = ["describe", "pangyo"]
