"""The driver of authoritative DNS servers (RFC 2136, RFC 8945)."""
