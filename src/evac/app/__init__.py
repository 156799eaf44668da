"""One function per use case; the only room that chooses files, clocks and drivers."""
