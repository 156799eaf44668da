"""The plan library: a plan ready for every loss worth planning for."""
