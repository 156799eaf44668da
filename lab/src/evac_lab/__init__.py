"""Three real sites on one machine to burn, and a fleet of simulated servers to boot."""
