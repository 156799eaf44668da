"""From an estate and a loss to a plan: where, when, and how good it could be."""
