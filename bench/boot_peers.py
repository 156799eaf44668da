"""What people would script today, on the same simulated fleet: DMTF's redfish library, and ansible.

Both power on servers and do nothing else: no journal, no limits, no following until up. Each is measured on a
slice for a bounded time and extrapolated to the whole fleet, and the figure says so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.boot_fleet import FleetProcess, fleet, servers_of
from bench.figures import Figure

HERE = Path(__file__).resolve().parent
ANSIBLE = HERE.parent / ".venv-bench" / "bin" / "ansible-playbook"
OPTIONS = ("--faults", "none", "--no-limits", "--latency", "1", "--speed", "8")
THREADS = 64
LOOP_SECONDS = 30.0
ANSIBLE_SERVERS = 500
ANSIBLE_SECONDS = 900.0
FORKS = 32
_PLAY = """\
- hosts: all
  connection: local
  gather_facts: false
  tasks:
    - community.general.redfish_command:
        category: Systems
        command: PowerOn
        baseuri: "{{ inventory_hostname }}:{{ port }}"
        username: "{{ user }}"
        password: "{{ lookup('file', password_file) }}"
        timeout: 20
"""


def figures(servers: int) -> Iterator[Figure]:
    """Both peers; what cannot be measured here is said with its reason."""
    with tempfile.TemporaryDirectory(prefix="evac-peers-") as name:
        folder = Path(name)
        for scheme, options in (("plain HTTP", ()), ("TLS", ("--tls",))):
            with fleet(folder / scheme[:3], servers, *OPTIONS, *options) as process:
                yield _loop(process, servers, scheme, folder)
        with fleet(folder / "ansible", min(servers, ANSIBLE_SERVERS), *OPTIONS, "--tls") as process:
            yield _ansible(process, servers, folder)


def _loop(process: FleetProcess, servers: int, scheme: str, folder: Path) -> Figure:
    name, words = f"peer-redfish-{scheme[:3].lower()}", f"redfish library, {THREADS} threads, {scheme}"
    about = folder / "about.json"
    about.write_text(json.dumps(process.about), encoding="utf-8")
    argv = [sys.executable, str(HERE / "peer_redfish.py"), str(about), str(THREADS), str(LOOP_SECONDS)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LOOP_SECONDS + 120, check=False)
    if done.returncode != 0:
        return Figure(name, words, None, "s", note=f"it could not be run here: {done.stderr[-200:]}")
    found = json.loads(done.stdout)
    note = f"{found['done']:,} in {found['seconds']:.1f} s, {found['failed']} failed"
    note += f"; processor {found['cpu_s']:.0f} s"
    return _extrapolated(name, words, servers, found["done"], found["seconds"], note)


def _ansible(process: FleetProcess, servers: int, folder: Path) -> Figure:
    name, words = "peer-ansible", f"ansible redfish_command, {FORKS} forks, TLS"
    if not ANSIBLE.exists():
        return Figure(name, words, None, "s", note="ansible is not installed here (make bench-referees)")
    inventory, play = folder / "hosts.ini", folder / "on.yml"
    inventory.write_text(
        "\n".join(["[all]", *(one.address for one in servers_of(process.about)), ""]), "utf-8"
    )
    play.write_text(_PLAY, encoding="utf-8")
    about: dict[str, Any] = process.about
    told = {
        "port": about["port"],
        "user": about["user"],
        "password_file": about["password"].removeprefix("file:"),
        "ansible_python_interpreter": str(ANSIBLE.with_name("python")),
    }
    argv = [str(ANSIBLE), "-i", str(inventory), "-f", str(FORKS), "-e", json.dumps(told), str(play)]
    env = {**os.environ, "ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_LOCALHOST_WARNING": "false"}
    began = time.monotonic()
    _run_whole(argv, env)
    seconds = time.monotonic() - began
    done = process.stats()["resets"]["power_ons"]
    if not done:
        return Figure(name, words, None, "s", note="ansible switched nothing on here")
    return _extrapolated(name, words, servers, done, seconds, f"{done:,} in {seconds:.1f} s")


def _run_whole(argv: list[str], env: dict[str, str]) -> None:
    """Runs it for a bounded time; its forks end with it."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(argv, env=env, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        process.wait(ANSIBLE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _extrapolated(name: str, words: str, servers: int, done: int, seconds: float, note: str) -> Figure:
    if not done:
        return Figure(name, words, None, "s", note=note)
    more = "" if done >= servers else f"; extrapolated to {servers:,}"
    return Figure(name, words, seconds * servers / done, "s", note=f"{note}{more}; power-on alone")
