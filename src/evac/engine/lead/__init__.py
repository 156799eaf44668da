"""Leadership: the controller of a site, its lease, votes and policies."""
