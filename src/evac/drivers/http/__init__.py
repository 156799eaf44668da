"""The driver of webhooks."""
