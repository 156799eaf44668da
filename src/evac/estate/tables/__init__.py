"""The tables of an estate: servers, racks and replicas as columns."""
