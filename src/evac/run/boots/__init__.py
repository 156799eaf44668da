"""What the run of a cold start knows beyond the phases of its steps, and what follows from it."""
