"""Frozen values in the field's words, and pure derivations that every room shares.

This room knows no file, no clock, no network and no other room.
"""
