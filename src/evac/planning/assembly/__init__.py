"""Turns a generation on the board into a Plan: steps, dependencies, outcomes and cost."""
