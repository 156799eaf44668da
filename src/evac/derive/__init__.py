"""From estate, situation and scenario to the planning instance. Shared by planner and checker, which derives
limits and power again with code of its own.
"""
