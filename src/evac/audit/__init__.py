"""Impacts of every loss, computed once, and one file per rule that reads them."""
