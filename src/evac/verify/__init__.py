"""The independent checker of plans and bounds; it shares only the model with the planner."""
