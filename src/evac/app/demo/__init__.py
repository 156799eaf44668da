"""Demonstrations: October 2022 from files, and a war room over a simulated company."""
