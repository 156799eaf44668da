"""Backups that evac takes, copies, checks and restores for tests, and the evidence of them.

Engines are drivers that implement `TakesBackups` and `RestoresData`; evac has no backup format of its own.
"""
