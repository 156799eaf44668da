"""Boots: what they become in a run, the feeds behind them, and what happens when servers stay dark."""
