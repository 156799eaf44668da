"""Kinds of steps: one module per kind, and the registry that everything else reads."""
