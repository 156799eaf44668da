"""Composition root: one function for each use case, between the user interfaces and the packages below."""
