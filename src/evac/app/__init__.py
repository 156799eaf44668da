"""Composition root: one function a use case, between the skins and the rooms below."""
