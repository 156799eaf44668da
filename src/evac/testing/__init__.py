"""Seeded example estates and simulated worlds, for our tests and for those of users."""
