"""Alerts and updates: what people should know, what they were sent, and the process that sends it."""
