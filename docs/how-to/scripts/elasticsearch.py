#!/usr/bin/env python3
"""Moves the shards of an Elasticsearch cluster off the nodes of a site, for evac.

Verbs: shift, drain, ready, verify. ES_URLS: nodes at several sites, separated by commas; the first that
answers is asked. ES_API_KEY: base64, with the rights `monitor` and `manage` of the cluster. ES_ATTRIBUTE: the
attribute of nodes that names their site.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

DONE, NOT_DONE, NEVER, AGAIN = 0, 1, 64, 75
BACK = {"drain": "ready", "ready": "drain", "shift": "shift"}
ATTRIBUTE = os.environ.get("ES_ATTRIBUTE", "site")
EXCLUDE = f"cluster.routing.allocation.exclude.{ATTRIBUTE}"
WAIT_S = 10


def end(code: int, words: str) -> None:
    print(words)
    sys.exit(code)


def call(method: str, path: str, body: object = None) -> object:
    why = "ES_URLS names no node"
    for url in os.environ["ES_URLS"].split(","):
        request = urllib.request.Request(
            url.rstrip("/") + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"ApiKey {os.environ['ES_API_KEY']}",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=4) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            end(NEVER if error.code in (400, 401, 403, 404) else AGAIN, f"Elasticsearch answers {error.code}")
        except (OSError, ValueError) as error:
            why = f"{url} does not answer: {error}"
    end(AGAIN, why)
    raise AssertionError


def sites(name: str) -> list[str]:
    return [site for site in os.environ.get(f"EVAC_PARAMETER_{name}", "").split(",") if site]


def excluded() -> set[str]:
    """Sites that may hold no shard. A transient setting wins over a persistent one, so it is read first."""
    found = call("GET", "/_cluster/settings?flat_settings=true")
    for kind in ("transient", "persistent"):
        if EXCLUDE in found[kind]:
            return {site for site in found[kind][EXCLUDE].split(",") if site}
    return set()


def exclude(wanted: set[str]) -> None:
    value = ",".join(sorted(wanted)) or None
    call("PUT", "/_cluster/settings", {"persistent": {EXCLUDE: value}, "transient": {EXCLUDE: None}})


def left(off: list[str]) -> int:
    """Shards that are still at these sites."""
    nodes = {name for name, site in at.items() if site in off}
    shards = call("GET", "/_cat/shards?format=json&h=node")
    return sum(1 for shard in shards if (shard["node"] or "").split(" ")[0] in nodes)


what, verb = os.environ["EVAC_WHAT"], os.environ["EVAC_VERB"]
health = call("GET", "/_cluster/health")["status"]
if verb == "verify":
    good = health in ("green", "yellow")
    bad = NOT_DONE if what == "observe" else AGAIN
    end(DONE if good else bad, f"the cluster is {health}")
if verb not in BACK:
    end(NEVER, f"this script does not {verb}")
on, off = sites("TO") if verb == "shift" else sites("SITE"), sites("AWAY")
if what == "undo":
    verb, on, off = BACK[verb], (off if verb == "shift" else on), on
if verb == "drain":
    on, off = [], on
elif verb == "ready":
    off = []
attributes = call("GET", "/_cat/nodeattrs?format=json&h=node,attr,value")
at = {one["node"]: one["value"] for one in attributes if one["attr"] == ATTRIBUTE}
now = excluded()
wanted = (now | set(off)) - set(on)

if what == "observe":
    remaining = left(off)
    end(NOT_DONE if wanted != now or remaining else DONE, f"{remaining} shards are still there")
if unknown := set(on) - set(at.values()):
    end(NEVER, f"no node has the {ATTRIBUTE} {', '.join(sorted(unknown))}")
if what == "check":
    if not set(at.values()) - wanted:
        end(NEVER, "no site would be left for the shards")
    if health == "red":
        end(AGAIN, "the cluster is red: a shard has no copy that works")
    end(DONE, "can be done")
exclude(wanted)
until = time.monotonic() + WAIT_S
while what == "execute" and (remaining := left(off)):
    if time.monotonic() > until:
        end(AGAIN, f"{remaining} shards are still moving")
    time.sleep(0.2)
end(DONE, f"no shards at {', '.join(sorted(wanted)) or 'no site'}")
