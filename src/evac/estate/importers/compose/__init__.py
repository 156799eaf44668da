"""The importer of Compose files."""
