"""Lose a data centre, keep the service: audit every loss, plan the evacuation, prove the plan."""

__version__ = "0.1.0"
