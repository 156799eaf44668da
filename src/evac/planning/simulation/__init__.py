"""Simulates a fixed plan many times with uncertain durations and failing steps."""
