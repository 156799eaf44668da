"""The driver of Redis."""
