"""Example companies of any size, made from a seed, without reading files or clocks."""

from __future__ import annotations

from evac.estate.examples.build import describe, pangyo

__all__ = ["describe", "pangyo"]
