"""Receivers of notices: real HTTP servers that verify what they are sent, and answer as they are told."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

from standardwebhooks import Webhook

KEY = "whsec_" + base64.b64encode(b"a key of the receiver, 32 bytes!").decode()


class Receiver:
    """One server. got: documents of requests that verify, with the id of each; a request that does not
    verify is counted in `refused`. answers: (status, headers) to give first. before: called with the id
    before anything is answered.
    """

    def __init__(self, key: str = KEY, signed: bool = True) -> None:
        self.got: list[tuple[str, Any]] = []
        self.refused = 0
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.before: Callable[[str], None] = lambda name: None
        self._verifier, self._signed = Webhook(key), signed
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.address}/hook"
        arguments = {"poll_interval": 0.02}
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs=arguments, daemon=True)
        self._thread.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                self.close_connection = True
                status, headers = receiver.take(dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def take(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        name = next((v for k, v in headers.items() if k.lower() == "webhook-id"), "")
        if self._signed:
            try:
                self._verifier.verify(body, headers)
            except Exception:
                self.refused += 1
                return 400, {}
        self.got.append((name, json.loads(body)))
        self.before(name)
        return self.answers.pop(0) if self.answers else (204, {})
