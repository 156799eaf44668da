#!/usr/bin/env python3
"""Announces and withdraws the anycast routes of a service by the ExaBGP of each site, for evac.

Verbs: shift, drain, ready. EXA_CLI: how exabgpcli is run for each site, separated by semicolons, such as
fra=ssh fra-edge exabgpcli;muc=ssh muc-edge exabgpcli. EXA_ROUTES: prefixes, separated by commas.

A shift counts a site as left if its ExaBGP does not answer: peers drop the routes of one that is gone.
"""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

DONE, NOT_DONE, NEVER, AGAIN = 0, 1, 64, 75
BACK = {"drain": "ready", "ready": "drain", "shift": "shift"}
CLI = dict(pair.strip().split("=", 1) for pair in os.environ["EXA_CLI"].split(";"))
ROUTES = frozenset(os.environ["EXA_ROUTES"].split(","))
WAIT_S = 4


class Silent(Exception):
    """The ExaBGP of a site does not answer."""


def end(code: int, words: str) -> None:
    print(words)
    sys.exit(code)


def call(site: str, words: str) -> str:
    try:
        ended = subprocess.run(
            [*shlex.split(CLI[site]), *words.split()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Silent(f"ExaBGP at {site} does not answer: {type(error).__name__}") from error
    if ended.returncode != 0:
        raise Silent(f"ExaBGP at {site} does not answer: {ended.stderr.strip()[-200:]}")
    return ended.stdout


def announced(site: str) -> set[str]:
    return ROUTES.intersection(call(site, "show adj-rib out").split())


def sites(name: str) -> list[str]:
    return [site for site in os.environ.get(f"EVAC_PARAMETER_{name}", "").split(",") if site]


def wanted(what: str, verb: str) -> tuple[list[str], list[str]]:
    """Sites that shall announce, and sites that shall not."""
    if verb not in BACK:
        end(NEVER, f"this script does not {verb}")
    on, off = sites("TO") if verb == "shift" else sites("SITE"), sites("AWAY")
    if what == "undo":
        verb, on, off = BACK[verb], (off if verb == "shift" else on), on
    if unknown := [site for site in on + off if site not in CLI]:
        end(NEVER, f"EXA_CLI names no ExaBGP for {', '.join(unknown)}")
    return {"drain": ([], on), "ready": (on, []), "shift": (on, off)}[verb]


def look(on: list[str], off: list[str]) -> dict[str, set[str]]:
    """What each site announces, asked at once. Only one that has to act must answer."""

    def ask(site: str) -> set[str] | Silent:
        try:
            return announced(site)
        except Silent as silent:
            return silent

    with ThreadPoolExecutor(len(CLI)) as pool:
        found = dict(zip(CLI, pool.map(ask, CLI), strict=True))
    for site, said in found.items():
        if isinstance(said, Silent) and (site in on or (site in off and not on)):
            raise said
    return {site: set() if isinstance(said, Silent) else said for site, said in found.items()}


def main(what: str, verb: str) -> None:
    on, off = wanted(what, verb)
    now = look(on, off)
    if what == "observe":
        done = all(now[site] == ROUTES for site in on) and not any(now[site] for site in off)
        shown = (f"{site} announces {', '.join(sorted(now[site])) or 'nothing'}" for site in CLI)
        end(DONE if done else NOT_DONE, "; ".join(shown))
    if what == "check":
        if not on and not any(now[site] for site in CLI if site not in off):
            end(NEVER, "no site would be left that announces")
        for site in on:
            if " established " not in call(site, "show neighbor summary"):
                end(AGAIN, f"no peer of {site} is established")
        end(DONE, "can be done")
    for site in on:
        for route in sorted(ROUTES - now[site]):
            call(site, f"announce route {route} next-hop self")
    for site in off:
        for route in sorted(now[site]):
            call(site, f"withdraw route {route} next-hop self")
    end(DONE, f"announced at {', '.join(on) or 'none'}, withdrawn at {', '.join(off) or 'none'}")


try:
    main(os.environ["EVAC_WHAT"], os.environ["EVAC_VERB"])
except Silent as error:
    end(AGAIN, str(error))
