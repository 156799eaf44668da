"""The importer of the public Wikimedia configuration."""
