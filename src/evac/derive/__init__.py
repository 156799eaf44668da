"""Estate, situation and scenario to the planning instance: shared by planner and checker, which
derives limits and power again by code of its own.
"""
