"""The driver of Patroni."""
