"""State and rules of a cold start beyond the phases of its steps."""
