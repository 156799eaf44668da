"""From a generation on the board to a Plan: steps, what waits for what, outcomes, and the price."""
