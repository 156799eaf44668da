"""The recovery bundle: one file with everything needed when nothing else is left."""
