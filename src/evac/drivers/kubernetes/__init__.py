"""The driver of Kubernetes."""
