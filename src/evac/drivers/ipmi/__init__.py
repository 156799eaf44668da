"""The driver of servers behind IPMI."""
