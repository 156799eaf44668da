"""What drivers and stores share to reach other systems: bounded HTTP, TLS, secrets, etcd, deadlines."""
