"""What the war room knows, with no HTTP in it."""
