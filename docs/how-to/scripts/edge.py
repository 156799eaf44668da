#!/usr/bin/env python3
"""Answers evac over HTTP for an edge of your own: shift, drain, ready. Replace `read` and `write`.

EDGE_KEY: the key that signs requests. EDGE_FILE: JSON {"sites": {"fra": true}, "token": 0, "before": {}}.
EDGE_PORT: where it listens on this machine; a proxy in front of it speaks TLS.
"""

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILE, KEY = Path(os.environ["EDGE_FILE"]), os.environ["EDGE_KEY"].encode()
ONE_AT_A_TIME = threading.Lock()


def read() -> dict:
    return json.loads(FILE.read_text())


def write(edge: dict) -> None:
    new = FILE.with_suffix(".new")
    new.write_text(json.dumps(edge))
    new.replace(FILE)


def answer(asked: dict) -> tuple[int, dict]:
    edge, what, verb, given = read(), asked["what"], asked["verb"], asked["parameters"]
    sites, step = edge["sites"], f"{asked['run']}/{asked['step']}"
    if what in ("execute", "undo"):
        if asked["token"] < edge["token"]:
            return 409, {"why": f"a leader with the token {edge['token']} was here"}
        edge["token"] = asked["token"]
    if what == "undo":
        edge["sites"] = edge["before"].get(step, sites)
        write(edge)
        return 200, {"outcome": "done"}
    if what == "role" or verb not in ("shift", "drain", "ready"):
        return 422, {"why": "this edge does shift, drain and ready, and nothing else"}
    on, off = given.get("to", []), given.get("away", [])
    if verb == "drain":
        off = [given["site"]]
    elif verb == "ready":
        on = [given["site"]]
    if unknown := sorted({*on, *off} - sites.keys()):
        return 422, {"why": f"the edge has no site {', '.join(unknown)}"}
    wanted = sites | dict.fromkeys(on, True) | dict.fromkeys(off, False)
    if what == "observe":
        return 200, {"outcome": "done" if wanted == sites else "absent"}
    if not any(wanted.values()):
        return 422, {"why": "no site would be left with traffic"}
    if what == "execute":
        edge["before"].setdefault(step, sites)
        edge["sites"] = wanted
        write(edge)
    return 200, {"outcome": "ready" if what == "check" else "done"}


class Edge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length < 100_000 else b""
        if not self.signed(body):
            return self.send(401, {"why": "the signature is wrong, or older than five minutes"})
        with ONE_AT_A_TIME:
            return self.send(*answer(json.loads(body)))

    def signed(self, body: bytes) -> bool:
        name, at = self.headers.get("webhook-id", ""), self.headers.get("webhook-timestamp", "")
        mac = hmac.digest(KEY, f"{name}.{at}.".encode() + body, hashlib.sha256)
        right = "v1," + base64.b64encode(mac).decode()
        fresh = at.isdecimal() and abs(time.time() - int(at)) < 300
        return fresh and hmac.compare_digest(right, self.headers.get("webhook-signature", ""))

    def send(self, status: int, said: dict) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["EDGE_PORT"])), Edge)
    print(server.server_port, flush=True)
    server.serve_forever()
