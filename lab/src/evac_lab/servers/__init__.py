"""Real servers of a lab site, one module each: how to configure, start, wait for and end it."""
