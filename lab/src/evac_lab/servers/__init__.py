"""Real servers of a lab site, one module each: configure, start, wait for and end them."""
