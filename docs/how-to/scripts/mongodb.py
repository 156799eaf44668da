#!/usr/bin/env python3
"""Promotes, demotes and rejoins the members of a MongoDB replica set by site, for evac; and says their roles.

MONGO_SET: its name. MONGO_HOSTS: fra=db1:27017+db2:27017,muc=db3:27017. MONGO_USER and MONGO_PASSWORD: with
the role clusterManager; empty where the set asks for none. MONGO_TLS=1 for TLS. Needs pymongo 4.

As long as most votes are alive, the set elects its primary by itself, and priorities say where. If most are
lost and fenced, the reconfiguration is forced: the members of all other sites have no vote until they rejoin.
What rejoins gets one vote and the priority 1.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

DONE, NOT_DONE, NEVER, AGAIN = 0, 1, 64, 75
SITE = os.environ["EVAC_SITE"]
HOSTS = {
    host: site
    for site, hosts in (pair.split("=", 1) for pair in os.environ["MONGO_HOSTS"].split(","))
    for host in hosts.split("+")
}
WAIT_MS = int(os.environ.get("MONGO_WAIT_MS", "1500"))
FENCED = ("network", "power", "attest")


def end(code: int, words: str) -> None:
    print(words)
    sys.exit(code)


def ask(host: str, command: str, value: object = 1, **more: object) -> dict:
    """One command to one member; what a wrong password or a lack of rights says is final."""
    sign_in = {"username": os.environ["MONGO_USER"], "password": os.environ["MONGO_PASSWORD"]}
    with MongoClient(
        host,
        directConnection=True,
        serverSelectionTimeoutMS=WAIT_MS,
        connectTimeoutMS=WAIT_MS,
        socketTimeoutMS=15000,
        tls=os.environ.get("MONGO_TLS") == "1",
        **(sign_in if sign_in["username"] else {}),
    ) as client:
        return client.admin.command({command: value, **more})


def hello(host: str) -> dict | None:
    """What a member says of itself; None where it does not answer. One of another set counts for nothing."""
    try:
        said = ask(host, "hello")
    except OperationFailure:
        raise
    except PyMongoError:
        return None
    if said.get("setName") != os.environ["MONGO_SET"]:
        end(NEVER, f"{host} is no member of {os.environ['MONGO_SET']}")
    return said


def hellos(hosts: list[str]) -> dict[str, dict]:
    """What the members that answer say, asked all at once: several may be lost."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return {host: said for host, said in zip(hosts, pool.map(hello, hosts), strict=True) if said}


def settle(config: dict, votes: dict[str, int]) -> dict:
    """The configuration in which the members with no vote cannot be elected either."""
    for member in config["members"]:
        if member["host"] in votes:
            member["votes"] = votes[member["host"]]
            member["priority"] = 0 if member.get("arbiterOnly") else votes[member["host"]]
    return config | {"version": config["version"] + 1}


def role() -> None:
    mine = hellos([host for host in HOSTS if HOSTS[host] == SITE])
    if not mine:
        end(AGAIN, f"no member at {SITE} answers")
    host = next((one for one, said in mine.items() if said.get("isWritablePrimary")), next(iter(mine)))
    members = ask(host, "replSetGetStatus")["members"]
    me = next(one for one in members if one.get("self"))
    newest = max((one["optime"]["ts"] for one in members if "optime" in one), default=Timestamp(0, 0))
    names = {1: "primary", 2: "replica" if me.get("syncSourceHost") else "detached"}
    print(
        json.dumps(
            {
                "role": names.get(me["state"], "none"),
                "lag_ms": 1000 * max(0, newest.time - me["optime"]["ts"].time),
                "position": (me["optime"]["ts"].time << 32) + me["optime"]["ts"].inc,
                "history": os.environ["MONGO_SET"],
            }
        )
    )


def promote(what: str, seen: dict[str, dict]) -> None:
    mine = [host for host in seen if HOSTS[host] == SITE]
    primaries = [host for host, said in seen.items() if said.get("isWritablePrimary")]
    if what == "observe":
        end(DONE if set(primaries) & set(mine) else NOT_DONE, f"primary: {', '.join(primaries) or 'none'}")
    if primaries:
        at = HOSTS[primaries[0]]
        end(DONE if at == SITE else AGAIN, f"{primaries[0]} at {at} takes writes")
    ready = [host for host in mine if seen[host].get("secondary")]
    if not ready:
        end(AGAIN, f"no member at {SITE} is a secondary")
    config = ask(ready[0], "replSetGetConfig")["config"]
    voters = [one["host"] for one in config["members"] if one.get("votes", 1)]
    alive = [host for host in voters if host in seen]
    enough = 2 * len(alive) > len(voters)
    if not enough and os.environ.get("EVAC_PARAMETER_PROOF") not in FENCED:
        end(
            NEVER,
            f"{len(alive)} of {len(voters)} votes are alive: fence the others before a forced promotion",
        )
    if what == "check":
        end(DONE, "the set can elect it" if enough else "can be forced")
    if enough:
        ask(ready[0], "replSetStepUp")
    else:
        votes = {host: int(host in mine) for host in voters}
        ask(ready[0], "replSetReconfig", settle(config, votes), force=True)
    end(DONE, f"{ready[0]} was asked to take over")


def demote(what: str, seen: dict[str, dict]) -> None:
    mine = [host for host in seen if HOSTS[host] == SITE]
    primary = next((host for host in mine if seen[host].get("isWritablePrimary")), "")
    if what == "observe":
        silent = [host for host in HOSTS if HOSTS[host] == SITE and host not in seen]
        if silent and not primary:
            end(AGAIN, f"{', '.join(silent)} does not answer")
        end(NOT_DONE if primary else DONE, f"{primary or 'no member'} takes writes at {SITE}")
    if what == "check" or not primary:
        end(DONE, "can be done")
    config = ask(primary, "replSetGetConfig")["config"]
    for member in config["members"]:
        if HOSTS.get(member["host"]) == SITE:  # a primary must stay electable, so it gets the least priority
            member["priority"] = 0.1 if member["host"] == primary else 0
    ask(primary, "replSetReconfig", config | {"version": config["version"] + 1})
    ask(primary, "replSetStepDown", 60, secondaryCatchUpPeriodSecs=10)
    end(DONE, f"{primary} stepped down")


def rejoin(what: str, seen: dict[str, dict]) -> None:
    mine = [host for host in seen if HOSTS[host] == SITE]
    primary = next((host for host, said in seen.items() if said.get("isWritablePrimary")), "")
    if not primary or HOSTS[primary] == SITE:
        end(NOT_DONE if what == "observe" else AGAIN, "no member of another site is the primary")
    config = ask(primary, "replSetGetConfig")["config"]
    lacking = [
        one["host"]
        for one in config["members"]
        if one["host"] in mine
        and not one.get("arbiterOnly")
        and (one.get("votes", 1) < 1 or one.get("priority", 1) < 1)
    ]
    if what == "observe":
        follow = mine and all(seen[host].get("secondary") for host in mine)
        end(DONE if follow and not lacking else NOT_DONE, f"without a vote: {', '.join(lacking) or 'none'}")
    if not mine:
        end(AGAIN, f"no member at {SITE} answers")
    if what == "check":
        end(DONE, "can be done")
    for host in lacking:  # one vote at a time: MongoDB accepts no more without force
        config = settle(ask(primary, "replSetGetConfig")["config"], {host: 1})
        ask(primary, "replSetReconfig", config)
    end(DONE, f"voting again: {', '.join(lacking) or 'none'}")


try:
    verbs = {"promote": promote, "demote": demote, "rejoin": rejoin}
    if os.environ["EVAC_WHAT"] == "role":
        role()
    elif os.environ["EVAC_VERB"] not in verbs or os.environ["EVAC_WHAT"] == "undo":
        end(NEVER, "this script promotes, demotes and rejoins; a set that moved stays moved")
    else:
        verbs[os.environ["EVAC_VERB"]](os.environ["EVAC_WHAT"], hellos(list(HOSTS)))
except OperationFailure as error:
    end(
        NEVER if error.code in (13, 18) else AGAIN,
        f"MongoDB answers {error.details.get('codeName', error.code)}",
    )
except PyMongoError as error:
    end(AGAIN, f"MongoDB does not answer: {type(error).__name__}")
