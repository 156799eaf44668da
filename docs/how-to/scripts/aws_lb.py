#!/usr/bin/env python3
"""Moves the traffic of an AWS load balancer between target groups, for evac: shift, drain, ready.

LB_LISTENER: its ARN. LB_GROUPS: fra=ARN,muc=ARN, each with a weight in the listener's default action. Needs
boto3, AWS_DEFAULT_REGION, and credentials for these actions of elasticloadbalancing: DescribeListeners,
DescribeTags, DescribeTargetHealth, ModifyListener, AddTags.
"""

import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

DONE, NOT_DONE, NEVER, AGAIN = 0, 1, 64, 75
WHOLE, BEFORE = 100, "evac-before"
LISTENER = os.environ["LB_LISTENER"]
GROUPS = dict(pair.split("=", 1) for pair in os.environ["LB_GROUPS"].split(","))


def end(code: int, words: str) -> None:
    print(words)
    sys.exit(code)


def sites(name: str) -> list[str]:
    return [site for site in os.environ.get(f"EVAC_PARAMETER_{name}", "").split(",") if site]


def read() -> tuple[dict, dict[str, int]]:
    """The default action that forwards, and the weight of each site in it."""
    (listener,) = aws.describe_listeners(ListenerArns=[LISTENER])["Listeners"]
    for action in listener["DefaultActions"]:
        if action["Type"] == "forward" and "ForwardConfig" in action:
            weights = {
                g["TargetGroupArn"]: g.get("Weight", 1) for g in action["ForwardConfig"]["TargetGroups"]
            }
            if missing := sorted(site for site, group in GROUPS.items() if group not in weights):
                end(NEVER, f"the listener does not forward to the group of {', '.join(missing)}")
            return listener, {site: weights[group] for site, group in GROUPS.items()}
    end(NEVER, "the listener forwards to no target groups")
    raise AssertionError


def write(listener: dict, weights: dict[str, int]) -> None:
    """Changes weights only: other groups, stickiness and other actions stay as they are."""
    actions = listener["DefaultActions"]
    for action in actions:
        for group in action.get("ForwardConfig", {}).get("TargetGroups", []):
            for site, arn in GROUPS.items():
                if group["TargetGroupArn"] == arn:
                    group["Weight"] = weights[site]
        if "ForwardConfig" in action:
            action.pop("TargetGroupArn", None)
    aws.modify_listener(ListenerArn=LISTENER, DefaultActions=actions)


def remembered() -> dict[str, int] | None:
    """The weights before this step, from the tag that it left; None if it left none."""
    (found,) = aws.describe_tags(ResourceArns=[LISTENER])["TagDescriptions"]
    for tag in found["Tags"]:
        key, _, weights = tag["Value"].partition(" ")
        if tag["Key"] == BEFORE and key == os.environ["EVAC_KEY"]:
            return {site: int(weight) for site, weight in (one.split("=") for one in weights.split("+"))}
    return None


def is_healthy(site: str) -> bool:
    found = aws.describe_target_health(TargetGroupArn=GROUPS[site])["TargetHealthDescriptions"]
    return any(one["TargetHealth"]["State"] == "healthy" for one in found)


def main(what: str, verb: str) -> None:
    if verb not in ("shift", "drain", "ready"):
        end(NEVER, f"this script does not {verb}")
    on, off = sites("TO") if verb == "shift" else sites("SITE"), sites("AWAY")
    if verb == "drain":
        on, off = [], on
    if unknown := [site for site in on + off if site not in GROUPS]:
        end(NEVER, f"LB_GROUPS names no group for {', '.join(unknown)}")
    listener, now = read()
    share = int(os.environ.get("EVAC_PARAMETER_SHARE", "1000"))
    wanted = now | dict.fromkeys(off, WHOLE - WHOLE * share // 1000)
    wanted |= dict.fromkeys(on, WHOLE * share // 1000 if off else WHOLE)
    if what == "undo":
        before = remembered()
        if before is not None and before != now:
            write(listener, before)
        end(DONE, "as it was" if before is not None else "this step changed nothing")
    if what == "observe":
        shown = ", ".join(f"{site} {weight}" for site, weight in now.items())
        end(DONE if wanted == now else NOT_DONE, shown)
    if what == "check":
        if not any(wanted.values()):
            end(NEVER, "no target group would be left with traffic")
        if ill := [site for site in on if not is_healthy(site)]:
            end(AGAIN, f"no target of {', '.join(ill)} is healthy")
        end(DONE, "can be done")
    if remembered() is None:
        weights = "+".join(f"{site}={weight}" for site, weight in now.items())
        tag = {"Key": BEFORE, "Value": f"{os.environ['EVAC_KEY']} {weights}"}
        aws.add_tags(ResourceArns=[LISTENER], Tags=[tag])
    write(listener, wanted)
    end(DONE, ", ".join(f"{site} {weight}" for site, weight in wanted.items()))


BUSY = ("Throttling", "RequestLimitExceeded", "ServiceUnavailable")
QUICK = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
try:
    aws = boto3.client("elbv2", config=QUICK)
    main(os.environ["EVAC_WHAT"], os.environ["EVAC_VERB"])
except ClientError as error:
    code = error.response["Error"]["Code"]
    end(AGAIN if code in BUSY else NEVER, f"AWS answers {code}")
except BotoCoreError as error:
    end(AGAIN, f"AWS does not answer: {error}")
