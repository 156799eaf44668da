"""Frozen values in the words of the field; every other room speaks through them."""
