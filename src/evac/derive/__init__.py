"""Estate, situation and scenario to the planning instance: the one thing that planner and checker share."""
