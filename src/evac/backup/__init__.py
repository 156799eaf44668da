"""Backups that evac takes, copies, checks and restores for a test, and the evidence of it.

Engines are drivers that can `TakesBackups` and `RestoresData`; evac writes no backup format of its own.
"""
