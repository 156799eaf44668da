"""Health check of this container: `python -m evac.app.healthcheck`, for the container runtime.

It queries the address in `EVAC_HEALTH` and exits with 0 for a 2xx response, else with 1. If the variable is
empty, nothing listens, and a running process is healthy. The address must be on this machine, so the name in
a certificate does not matter.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from typing import Final
from urllib.parse import urlsplit

ANSWER_S: Final = 4.0
HERE: Final = ("127.0.0.1", "::1", "localhost")
WELL: Final = 0
ILL: Final = 1


def check(address: str) -> str:
    """What is wrong, in words; empty if healthy."""
    if not address:
        return ""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "EVAC_HEALTH is not an address"
    if parts.scheme not in ("http", "https") or host not in HERE:
        return "EVAC_HEALTH is not an address of this machine"
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            asked: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=ANSWER_S, context=context
            )
        else:
            asked = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
        try:
            asked.request("GET", parts.path or "/")
            status = asked.getresponse().status
        finally:
            asked.close()
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({type(error).__name__})"
    return "" if 200 <= status < 300 else f"it returned status {status}"


def main() -> int:
    words = check(os.environ.get("EVAC_HEALTH", ""))
    if words:
        print(words, file=sys.stderr)
    return ILL if words else WELL


if __name__ == "__main__":
    sys.exit(main())
