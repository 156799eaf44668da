"""The importer of Kubernetes manifests."""
