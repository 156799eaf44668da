#!/usr/bin/env python3
"""Moves the traffic of a service between members of a BIG-IP pool, for evac: shift, drain, ready.

F5_URL, F5_POOL such as ~Common~shop, F5_USER, F5_PASSWORD; F5_MEMBERS: fra=web-fra:443,muc=web-muc:443.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request

DONE, NOT_DONE, NEVER, AGAIN = 0, 1, 64, 75
BACK = {"drain": "ready", "ready": "drain", "shift": "shift"}


def end(code: int, words: str) -> None:
    print(words)
    sys.exit(code)


def call(method: str, path: str, body: object = None) -> dict:
    user = f"{os.environ['F5_USER']}:{os.environ['F5_PASSWORD']}"
    request = urllib.request.Request(
        f"{os.environ['F5_URL']}/mgmt/tm/ltm/pool/{os.environ['F5_POOL']}/members{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        end(NEVER if error.code in (400, 401, 403, 404) else AGAIN, f"BIG-IP answers {error.code}")
    except OSError as error:
        end(AGAIN, f"BIG-IP does not answer: {error}")
    raise AssertionError


def sites(name: str) -> list[str]:
    return [site for site in os.environ.get(f"EVAC_PARAMETER_{name}", "").split(",") if site]


what, verb = os.environ["EVAC_WHAT"], os.environ["EVAC_VERB"]
members = dict(pair.split("=", 1) for pair in os.environ["F5_MEMBERS"].split(","))
if verb not in BACK:
    end(NEVER, f"this script does not {verb}")
on, off = sites("TO") if verb == "shift" else sites("SITE"), sites("AWAY")
if what == "undo":
    verb, on, off = BACK[verb], (off if verb == "shift" else on), on
if verb == "drain":
    on, off = [], on
elif verb == "ready":
    off = []
if unknown := [site for site in on + off if site not in members]:
    end(NEVER, f"the pool has no member for {', '.join(unknown)}")
found = {one["name"]: one for one in call("GET", "")["items"]}
enabled = {site for site, name in members.items() if found[name]["session"] != "user-disabled"}

if what == "observe":
    done = enabled.issuperset(on) and not enabled.intersection(off)
    end(DONE if done else NOT_DONE, f"enabled: {', '.join(sorted(enabled))}")
if what == "check":
    if down := [site for site in on if found[members[site]]["state"] != "up"]:
        end(AGAIN, f"the member for {', '.join(down)} is down")
    if not (enabled | set(on)) - set(off):
        end(NEVER, "no member would be left with traffic")
    end(DONE, "can be done")
for site in on:
    call("PATCH", f"/~Common~{members[site]}", {"session": "user-enabled"})
for site in off:
    call("PATCH", f"/~Common~{members[site]}", {"session": "user-disabled"})
end(DONE, f"enabled {', '.join(on) or 'none'}, disabled {', '.join(off) or 'none'}")
