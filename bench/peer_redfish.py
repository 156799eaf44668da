"""Powers servers on as a careful script would: DMTF's redfish library, a thread pool, one login a server.

python bench/peer_redfish.py READY-LINE-FILE THREADS SECONDS: takes no new server after SECONDS; prints JSON.
"""

from __future__ import annotations

import csv
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redfish

_SYSTEM = "/redfish/v1/Systems/1"


def main(about_file: str, threads: str, seconds: str) -> None:
    about = json.loads(Path(about_file).read_text(encoding="utf-8"))
    password = Path(about["password"].removeprefix("file:")).read_text(encoding="utf-8")
    with (Path(about["estate"]) / "servers.csv").open(encoding="utf-8", newline="") as file:
        rows = iter([(row["bmc_address"], row["serial"]) for row in csv.DictReader(file)])
    lock = threading.Lock()
    counts = {"done": 0, "failed": 0}
    began = time.monotonic()
    ends = began + float(seconds)

    def work() -> None:
        while time.monotonic() < ends:
            with lock:
                row = next(rows, None)
            if row is None:
                return
            word = "done" if _on(about, password, *row) else "failed"
            with lock:
                counts[word] += 1

    with ThreadPoolExecutor(int(threads)) as pool:
        for _ in range(int(threads)):
            pool.submit(work)
    cpu = time.process_time()
    print(json.dumps({**counts, "seconds": time.monotonic() - began, "cpu_s": cpu}))


def _on(about: dict[str, object], password: str, address: str, serial: str) -> bool:
    """Looks, compares the serial, switches on; whether it could."""
    url = f"{about['scheme']}://{address}:{about['port']}"
    try:
        client = redfish.redfish_client(
            base_url=url, username=about["user"], password=password, timeout=5, max_retry=1
        )
        client.login(auth="basic")
        try:
            seen = client.get(_SYSTEM).dict
            if seen["SerialNumber"] != serial:
                return False
            target = seen["Actions"]["#ComputerSystem.Reset"]["target"]
            return bool(client.post(target, body={"ResetType": "On"}).status == 204)
        finally:
            client.logout()
    except Exception:  # a script of this kind goes on with the next server, whatever it is
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
