"""The agent of a site: the local hand of evac. It sees no store, leads nothing, obeys signed orders."""
