"""Three real sites on one machine, to burn."""
