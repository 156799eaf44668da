"""Frozen values in the field's terms, and pure derivations shared by every package. This one uses no files,
clock, network or other package.
"""
