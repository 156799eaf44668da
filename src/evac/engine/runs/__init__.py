"""Runs: proposed, approved, bound, carried out, read back, ended."""
