"""The driver of plain PostgreSQL."""
