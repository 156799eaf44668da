"""Leadership: the controller of a site, its lease, its votes, its policies."""
