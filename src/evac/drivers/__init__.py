"""Drivers of real systems: one module each, behind the port check, execute, observe, undo."""
