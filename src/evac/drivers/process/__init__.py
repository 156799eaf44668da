"""The driver of processes: signed orders to the agent of a site, and everything that speaks to agents."""
