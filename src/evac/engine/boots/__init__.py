"""Boots: how they are bound to a run, the feeds behind them, and what happens when servers stay dark."""
