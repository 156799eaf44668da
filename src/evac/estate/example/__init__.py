"""Example companies of any size, made from a seed: nothing is read, nothing is timed."""

from __future__ import annotations

from evac.estate.example.build import pangyo
from evac.estate.example.description import describe

__all__ = ["describe", "pangyo"]
