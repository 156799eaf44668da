"""Imports Compose projects."""
