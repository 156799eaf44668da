"""What the war room knows, without HTTP."""
