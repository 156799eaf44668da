"""Kinds of steps: one module a kind, and the registry that everything else reads."""
