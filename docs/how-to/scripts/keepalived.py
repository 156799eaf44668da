#!/usr/bin/env python3
"""Moves the virtual addresses of a service between the sites whose hosts run keepalived (VRRP), for evac.

Verbs: shift, drain, ready. KEEPALIVED_HOSTS: how a shell is run on the hosts of each site. Semicolons
separate sites, commas the hosts of one, such as fra=ssh fra-lb1,ssh fra-lb2;muc=ssh muc-lb1.
KEEPALIVED_ADDRESSES: the addresses, separated by commas. KEEPALIVED_FOLDER: the folder of the two files on
each host that keepalived tracks: rank (the host with the highest one holds the addresses) and withdrawn (0 or
1). A rank is even at the site that was chosen last, and the odd one below it elsewhere.

A shift counts a site as left if none of its hosts answers. Such a host has a lower rank when it returns.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import NamedTuple

DONE, NOT_DONE, NEVER, AGAIN = 0, 1, 64, 75
BACK = {"drain": "ready", "ready": "drain"}
HOSTS = {
    site: [command.strip() for command in commands.split(",")]
    for site, _, commands in (
        part.strip().partition("=") for part in os.environ["KEEPALIVED_HOSTS"].split(";")
    )
}
ADDRESSES = frozenset(str(ip_address(one.strip())) for one in os.environ["KEEPALIVED_ADDRESSES"].split(","))
FOLDER = os.environ.get("KEEPALIVED_FOLDER", "/etc/keepalived/evac")
CALL_S, TAKEN_OVER_S, PAUSE_S, MOST_RANK = 4, 6, 0.2, 14
LOOK = """
echo rank "$(cat "$1/rank")" withdrawn "$(cat "$1/withdrawn")"
read -r pid < /run/keepalived.pid && [ -d "/proc/$pid" ] && echo running
ip -o address show
"""
CHANGE = f"""
set -eu
exec 9>> "$1/lock"
flock -w 2 9
read -r highest < "$1/token" || highest=0
[ "$2" -ge "$highest" ] || exit {NEVER}
put() {{ echo "$2" > "$1.new"; mv "$1.new" "$1"; }}
put "$1/token" "$2"
[ "$3" = - ] || put "$1/rank" "$3"
[ "$4" = - ] || put "$1/withdrawn" "$4"
"""


class Host(NamedTuple):
    """What a host said. silent: why it did not answer; empty if it did."""

    site: str
    command: str
    silent: str = ""
    rank: int = 0
    withdrawn: bool = False
    running: bool = False
    holds: frozenset[str] = frozenset()

    def __str__(self) -> str:
        number = f" host {HOSTS[self.site].index(self.command) + 1}" if len(HOSTS[self.site]) > 1 else ""
        if self.silent:
            return f"{self.site}{number} does not answer"
        state = "is withdrawn" if self.withdrawn else "is ready" if self.running else "runs no keepalived"
        return f"{self.site}{number} " + (f"holds {', '.join(sorted(self.holds))}" if self.holds else state)


def end(code: int, words: str) -> None:
    print(words)
    sys.exit(code)


def call(command: str, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*shlex.split(command), "sh", "-s", "--", FOLDER, *words]
    return subprocess.run(argv, input=script, capture_output=True, text=True, timeout=CALL_S, check=False)


def ask(site: str, command: str) -> Host:
    try:
        ended = call(command, LOOK)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Host(site, command, type(error).__name__)
    files = re.match(r"rank (\d{1,2}) withdrawn ([01])$", ended.stdout, re.MULTILINE)
    if ended.returncode != 0 or files is None:
        return Host(site, command, ended.stderr.strip()[-200:] or "unexpected answer")
    there = {found.partition("/")[0] for found in re.findall(r"\binet6? (\S+)", ended.stdout)}
    running = "running" in ended.stdout.splitlines()
    return Host(site, command, "", int(files[1]), files[2] == "1", running, ADDRESSES.intersection(there))


def look() -> list[Host]:
    """Every host, all asked at once."""
    every = [(site, command) for site, commands in HOSTS.items() for command in commands]
    with ThreadPoolExecutor(len(every)) as pool:
        return list(pool.map(lambda one: ask(*one), every))


def change(host: Host, rank: int | None = None, withdrawn: int | None = None) -> None:
    given = ["-" if value is None else str(value) for value in (rank, withdrawn)]
    try:
        ended = call(host.command, CHANGE, os.environ.get("EVAC_TOKEN", "0"), *given)
    except (OSError, subprocess.TimeoutExpired) as error:
        end(AGAIN, f"{host}: {type(error).__name__}")
    if ended.returncode == NEVER:
        end(NEVER, f"{host}: a newer leader has changed it")
    if ended.returncode != 0:
        end(AGAIN, f"{host}: {ended.stderr.strip()[-200:]}")


def sites(name: str) -> list[str]:
    return [site for site in os.environ.get(f"EVAC_PARAMETER_{name}", "").split(",") if site]


def wanted(what: str, verb: str) -> tuple[str, list[str], list[str]]:
    """The verb, sites that shall hold the addresses (or be ready to), and sites that shall not."""
    if verb != "shift" and verb not in BACK:
        end(NEVER, f"this script does not {verb}")
    if verb != "shift":
        return (BACK[verb] if what == "undo" else verb), sites("SITE"), []
    if int(os.environ.get("EVAC_PARAMETER_SHARE") or 1000) < 1000:
        end(DONE, "addresses move as a whole, with the last share: nothing moves now")
    to, away = sites("TO"), sites("AWAY")
    if what == "undo" and not away:
        end(NEVER, "it is not known which site held the addresses before")
    return (verb, away, []) if what == "undo" else (verb, to, away)


def can_hold(host: Host) -> bool:
    return host.running and not host.silent


def is_done(verb: str, on: list[str], off: list[str], now: list[Host]) -> bool:
    own = [host for host in now if host.site in on]
    if verb == "ready":
        return any(can_hold(host) for host in own) and not any(host.withdrawn for host in own)
    if verb == "drain":
        return all(host.withdrawn and not host.holds for host in own)
    held = {address for host in own for address in host.holds}
    others = [host for host in now if host.site not in on and not host.silent]
    left = all(host.withdrawn for host in others if host.site in off)
    # Not done if keepalived moved them by itself: the rank must keep them there when another host returns.
    ranked = all(host.rank and host.rank % 2 == 0 for host in own if can_hold(host))
    lower = all(host.rank < other.rank for host in others for other in own if can_hold(other))
    return held == ADDRESSES and left and ranked and lower and not any(host.holds for host in others)


def must_answer(verb: str, off: list[str], on: list[str], now: list[Host]) -> None:
    """A site must answer unless a shift leaves it: each host for drain and ready, one host for a shift."""
    for site in HOSTS:
        own = [host for host in now if host.site == site]
        silent = [host for host in own if host.silent]
        each = verb != "shift" and site in on
        if silent and site not in off and (each or len(silent) == len(own)):
            end(AGAIN, f"{silent[0]}: {silent[0].silent}")


def must_be_possible(verb: str, on: list[str], now: list[Host]) -> None:
    if verb == "drain":
        if not any(can_hold(host) and not host.withdrawn for host in now if host.site not in on):
            end(NEVER, "no host would be left that can hold the addresses")
        return
    for site in on:
        if not any(can_hold(host) for host in now if host.site == site):
            end(AGAIN, f"no host of {site} runs keepalived")


def wait_until(verb: str, on: list[str]) -> bool:
    """Whether, in time, hosts of the sites hold all addresses (shift), or hosts of other sites do (drain)."""
    until = time.monotonic() + TAKEN_OVER_S
    while True:
        now = look()
        held = {address for host in now if (host.site in on) == (verb == "shift") for address in host.holds}
        if held == ADDRESSES:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE_S)


def shift(on: list[str], off: list[str], now: list[Host]) -> None:
    answering = [host for host in now if not host.silent]
    silent = len(answering) < len(now)
    highest = max(host.rank for host in answering)
    rank = (highest + 3) // 2 * 2 if silent else 2  # a silent host has at most highest + 1
    if rank > MOST_RANK:
        end(AGAIN, "no higher rank is left until every host answers")
    # No other host outranks the new holder meanwhile: ranks fall at the others first, and rise there last.
    order = sorted(answering, key=lambda host: (host.site in on) != silent)
    for host in order:
        change(host, rank, 0) if host.site in on else change(host, rank - 1)
    if not wait_until("shift", on):
        end(AGAIN, f"no host of {', '.join(on)} took over within {TAKEN_OVER_S} s; no site was withdrawn")
    for host in answering:
        if host.site in off:
            change(host, withdrawn=1)


def drain(own: list[Host], on: list[str]) -> None:
    for host in own:
        change(host, withdrawn=1)
    if not wait_until("drain", on):
        for host in own:
            change(host, withdrawn=int(host.withdrawn))
        end(AGAIN, f"no other site took over within {TAKEN_OVER_S} s: {', '.join(on)} is as before")


def main(what: str, verb: str) -> None:
    verb, on, off = wanted(what, verb)
    if unknown := [site for site in on + off if site not in HOSTS]:
        end(NEVER, f"KEEPALIVED_HOSTS names no host of {', '.join(unknown)}")
    now = look()
    must_answer(verb, off, on, now)
    if what == "observe":
        end(DONE if is_done(verb, on, off, now) else NOT_DONE, "; ".join(map(str, now)))
    must_be_possible(verb, on, now)
    if what == "check":
        end(DONE, "; ".join(map(str, now)))
    own = [host for host in now if host.site in on]
    if verb == "shift":
        shift(on, off, now)
    elif verb == "drain":
        drain(own, on)
    else:
        for host in own:
            change(host, withdrawn=0)
    end(DONE, "; ".join(map(str, look())))


main(os.environ["EVAC_WHAT"], os.environ["EVAC_VERB"])
