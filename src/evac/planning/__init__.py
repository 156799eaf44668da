"""From an estate and a loss to a plan: where, when, and how close to optimal."""
