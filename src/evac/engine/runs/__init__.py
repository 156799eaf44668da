"""Runs: proposed, approved, bound, executed, read back, ended."""
