"""Shared by drivers and stores to reach other systems: bounded HTTP, TLS, secrets, etcd, deadlines."""
