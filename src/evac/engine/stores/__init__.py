"""Data sets: leases, epochs, guards, permits, and what a promotion may lose."""
