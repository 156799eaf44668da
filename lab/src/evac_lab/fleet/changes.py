"""What a client may change on a controller: resets, boot source, sessions, accounts, breakers.

Each change checks its body whole before it does anything, and says every problem at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac_lab.fleet import circuits
from evac_lab.fleet.accounts import ACCOUNTS_MOST, PRIVILEGES, Account
from evac_lab.fleet.answers import Answer, Json, Request, information, refusals, refused
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.machines import BOOT_TARGETS, OVERRIDE_DISABLED, OVERRIDE_ONCE, OVERRIDES, Reset
from evac_lab.fleet.resources import (
    MANAGER_RESET_TARGET,
    MANAGER_RESETS,
    RESET_TARGET,
    RESETS,
    V1,
    account,
    session,
    subscription,
)

_HOW: Final[Mapping[str, Reset]] = MappingProxyType(
    {
        "On": "on",
        "ForceOn": "on",
        "ForceOff": "off",
        "GracefulShutdown": "graceful-off",
        "GracefulRestart": "graceful-restart",
        "ForceRestart": "restart",
        "PowerCycle": "cycle",
        "Nmi": "restart",
    }
)
DONE: Final = 204
RETRY_AFTER_S: Final = 10
_VENDORS_NO_ROOM: Final = "IDRAC.2.8.RAC0218"
_SUBSCRIPTIONS_MOST: Final = 16
_PASSWORD_LEAST: Final = 8


class Refusal(Exception):
    """A change that is not made. answer: why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def given(request: Request) -> Json:
    """The body as an object. Raises `Refusal`."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Refusal(refused(415, "HeaderInvalid", "Content-Type"))
    try:
        found = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as error:
        raise Refusal(refused(400, "MalformedJSON")) from error
    if not isinstance(found, dict):
        raise Refusal(refused(400, "MalformedJSON"))
    return found


def one_of(action: str, body: Json, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    """A parameter of an action. Raises `Refusal`."""
    if unknown := next((key for key in body if key != name), None):
        raise Refusal(refused(400, "ActionParameterNotSupported", unknown[:80], action))
    value = body.get(name, default)
    if value is None:
        raise Refusal(refused(400, "ActionParameterMissing", action, name))
    if value not in allowed:
        raise Refusal(refused(400, "ActionParameterValueNotInList", str(value)[:80], name, action))
    return str(value)


def reset(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    """#ComputerSystem.Reset. A liar says done as anybody."""
    kind = one_of("ComputerSystem.Reset", given(request), "ResetType", RESETS)
    if kind == "PushPowerButton":
        how: Reset = "graceful-off" if fleet.machines.state[server] else "on"
    else:
        how = _HOW[kind]
    fleet.machines.reset(server, how, now)
    return Answer(DONE)


def reset_manager(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    """#Manager.Reset: the controller is silent for a while; the server does not notice."""
    one_of("Manager.Reset", given(request), "ResetType", MANAGER_RESETS, MANAGER_RESETS[0])
    if server >= 0:
        fleet.machines.restart_controller(server, now)
    fleet.accounts.forget_sessions(server)
    return Answer(DONE)


def move_breaker(fleet: Fleet, circuit: str, request: Request, now: int) -> Answer:
    """#Circuit.BreakerControl."""
    domain = circuits.feed_at(fleet, circuit)
    if domain is None:
        raise Refusal(refused(404, "ResourceMissingAtURI", request.path))
    wanted = one_of("Circuit.BreakerControl", given(request), "PowerState", circuits.BREAKER_STATES, "On")
    if wanted == "On":
        fleet.machines.close(domain, now)
    else:
        fleet.machines.open(domain, now)
    return Answer(DONE)


def patch_system(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    """Boot source and asset tag."""
    body = given(request)
    problems = _unwritable(body, ("Boot", "AssetTag"))
    boot = body.get("Boot", {})
    if not isinstance(boot, dict):
        problems.append(information("PropertyValueTypeError", "Boot", "Boot", about="Boot"))
        boot = {}
    names = ("BootSourceOverrideEnabled", "BootSourceOverrideTarget", "BootSourceOverrideMode")
    problems += _unwritable(boot, names)
    for name, allowed in zip(names, (OVERRIDES, BOOT_TARGETS, ("UEFI",)), strict=True):
        if name in boot and boot[name] not in allowed:
            problems.append(
                information("PropertyValueNotInList", str(boot[name])[:80], name, about=f"Boot/{name}")
            )
    if "AssetTag" in body and not (isinstance(body["AssetTag"], str) and len(body["AssetTag"]) <= 64):
        problems.append(information("PropertyValueTypeError", "AssetTag", "AssetTag", about="AssetTag"))
    if problems:
        raise Refusal(refusals(400, problems))
    if "AssetTag" in body:
        fleet.change(server).asset_tag = body["AssetTag"]
    _set_boot(fleet, server, boot)
    return Answer(DONE)


def _set_boot(fleet: Fleet, server: int, boot: Json) -> None:
    machines = fleet.machines
    if "BootSourceOverrideTarget" in boot:
        machines.target[server] = BOOT_TARGETS.index(boot["BootSourceOverrideTarget"])
        if "BootSourceOverrideEnabled" not in boot:
            machines.override[server] = OVERRIDE_ONCE if machines.target[server] else OVERRIDE_DISABLED
    if "BootSourceOverrideEnabled" in boot:
        machines.override[server] = OVERRIDES.index(boot["BootSourceOverrideEnabled"])
        if machines.override[server] == OVERRIDE_DISABLED:
            machines.target[server] = 0


def _unwritable(body: Json, writable: tuple[str, ...]) -> list[Json]:
    """A message for each property that cannot be written; annotations are passed over."""
    return [
        information("PropertyNotWritable", name[:80], about=name[:80])
        for name in body
        if name not in writable and not name.startswith("@")
    ]


def patch_chassis(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    body = given(request)
    problems = _unwritable(body, ("AssetTag",))
    if not isinstance(body.get("AssetTag", ""), str) or len(body.get("AssetTag", "")) > 64:
        problems.append(information("PropertyValueTypeError", "AssetTag", "AssetTag", about="AssetTag"))
    if problems:
        raise Refusal(refusals(400, problems))
    if "AssetTag" in body:
        fleet.change(server).asset_tag = body["AssetTag"]
    return Answer(DONE)


def patch_network(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    """The time servers of a controller: an array of which null takes an element away, {} keeps it."""
    body = given(request)
    problems = _unwritable(body, ("NTP",))
    ntp = body.get("NTP", {})
    if not isinstance(ntp, dict) or not isinstance(ntp.get("NTPServers", []), list):
        problems.append(information("PropertyValueTypeError", "NTP", "NTP", about="NTP"))
        ntp = {}
    problems += _unwritable(ntp, ("NTPServers", "ProtocolEnabled"))
    servers = ntp.get("NTPServers", [])
    if len(servers) > 8 or not all(one is None or one == {} or isinstance(one, str) for one in servers):
        problems.append(
            information("PropertyValueTypeError", "NTPServers", "NTPServers", about="NTP/NTPServers")
        )
    if problems:
        raise Refusal(refusals(400, problems))
    kept = fleet.change(server)
    if "ProtocolEnabled" in ntp:
        kept.ntp_enabled = bool(ntp["ProtocolEnabled"])
    if "NTPServers" in ntp:
        old = kept.ntp_servers
        merged = [old[row] if one == {} and row < len(old) else one for row, one in enumerate(servers)]
        kept.ntp_servers = [one for one in merged if isinstance(one, str)]
    return Answer(DONE)


def open_session(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    """POST to the sessions: the only change that needs no credentials but those in its body."""
    body = given(request)
    user, password = body.get("UserName"), body.get("Password")
    missing = [name for name in ("UserName", "Password") if not isinstance(body.get(name), str)]
    if missing:
        raise Refusal(refusals(400, [information("PropertyMissing", name, about=name) for name in missing]))
    changed = server >= 0 and fleet.machines.has_fault(server, "changed-password")
    found = fleet.accounts.login(server, str(user), str(password), now, changed)
    if found is None:
        fleet.stats.unauthorized += 1
        raise Refusal(refused(401, "ResourceAtUriUnauthorized", request.path, "user or password are wrong"))
    opened = fleet.accounts.open_session(server, found, now)
    if opened is None:
        raise Refusal(no_room())
    body = session(opened.id, found.user)
    headers = [("Location", body["@odata.id"]), ("X-Auth-Token", opened.token)]
    if found.must_change:
        path = f"{V1}/AccountService/Accounts/{found.id}"
        body["@Message.ExtendedInfo"] = [information("PasswordChangeRequired", path)]
    return Answer(201, body, tuple(headers))


def no_room() -> Answer:
    """As a controller says it whose eight sessions are taken."""
    entry = information("SessionLimitExceeded")
    vendors = entry | {"MessageId": _VENDORS_NO_ROOM}
    return refusals(503, [entry, vendors], headers=(("Retry-After", str(RETRY_AFTER_S)),))


def close_session(fleet: Fleet, server: int, id: str, now: int) -> Answer:
    fleet.accounts.close_session(server, id)
    return Answer(DONE)


def make_account(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    body = given(request)
    problems = [
        information("PropertyMissing", name, about=name)
        for name in ("UserName", "Password", "RoleId")
        if name not in body
    ]
    problems += _account_problems(body)
    held = fleet.accounts.own(server)
    if any(one.user == body.get("UserName") for one in held.values()):
        problems.append(information("ResourceInUse", about="UserName"))
    if problems:
        raise Refusal(refusals(400, problems))
    if len(held) >= ACCOUNTS_MOST:
        raise Refusal(refused(400, "CreateLimitReachedForResource"))
    id = str(max(int(one) for one in held) + 1)
    held[id] = Account(id, "", "")
    _set_account(held[id], body)
    made = account(held[id], now)
    return Answer(201, made, (("Location", made["@odata.id"]),), etag=made["@odata.etag"])


_ACCOUNT_PROPERTIES: Final[Mapping[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "UserName": lambda value: isinstance(value, str) and 1 <= len(value) <= 32 and ":" not in value,
        "Password": lambda value: isinstance(value, str) and _PASSWORD_LEAST <= len(value) <= 64,
        "RoleId": lambda value: isinstance(value, str) and value in PRIVILEGES,
        "Enabled": lambda value: isinstance(value, bool),
        "PasswordChangeRequired": lambda value: isinstance(value, bool),
        "Locked": lambda value: value is False,
        "AccountTypes": lambda value: value == ["Redfish"],
    }
)


def _account_problems(body: Json) -> list[Json]:
    problems = []
    for name, value in body.items():
        if name.startswith("@"):
            continue
        if name not in _ACCOUNT_PROPERTIES:
            problems.append(information("PropertyUnknown", name[:80], about=name[:80]))
        elif not _ACCOUNT_PROPERTIES[name](value):
            problems.append(information("PropertyValueFormatError", "the value", name, about=name))
    return problems


def patch_account(fleet: Fleet, server: int, id: str, request: Request, user: Account, now: int) -> Answer:
    """Properties that can be written are; of the others each is told."""
    held = fleet.accounts.own(server)[id]
    body = given(request)
    if user.id != id and not user.may("ConfigureUsers"):
        raise Refusal(refused(403, "InsufficientPrivilege"))
    if user.id == id and not user.may("ConfigureUsers") and set(body) - {"Password"}:
        raise Refusal(refused(403, "InsufficientPrivilege"))
    problems = _account_problems(body)
    written = {name for name in body if name in _ACCOUNT_PROPERTIES}
    if not written:
        if not problems:
            problems = [information("NoOperation")]
        raise Refusal(refusals(400, problems))
    if any(not _ACCOUNT_PROPERTIES[name](body[name]) for name in written):
        raise Refusal(refusals(400, problems))
    _set_account(held, body)
    found = account(held, now)
    if problems:
        found["@Message.ExtendedInfo"] = problems
    return Answer(200, found, etag=found["@odata.etag"])


def _set_account(held: Account, body: Json) -> None:
    held.version += 1
    if "Password" in body:
        held.password, held.must_change, held.wrong = body["Password"], False, 0
    held.user = body.get("UserName", held.user)
    held.role = body.get("RoleId", held.role)
    held.enabled = body.get("Enabled", held.enabled)
    held.must_change = body.get("PasswordChangeRequired", held.must_change)
    if body.get("Locked") is False:
        held.locked_until, held.wrong = -1, 0


def delete_account(fleet: Fleet, server: int, id: str, now: int) -> Answer:
    if id == "1":
        raise Refusal(refused(403, "InsufficientPrivilege"))
    del fleet.accounts.own(server)[id]
    return Answer(DONE)


def subscribe(fleet: Fleet, server: int, request: Request, now: int) -> Answer:
    body = given(request)
    problems = []
    destination = body.get("Destination")
    if not isinstance(destination, str) or not destination.startswith(("http://", "https://")):
        problems.append(
            information("PropertyValueFormatError", "the value", "Destination", about="Destination")
        )
    if body.get("Protocol", "Redfish") != "Redfish":
        problems.append(information("PropertyValueNotInList", "the value", "Protocol", about="Protocol"))
    if problems:
        raise Refusal(refusals(400, problems))
    kept = fleet.change(server)
    if len(kept.subscriptions) >= _SUBSCRIPTIONS_MOST:
        raise Refusal(refused(400, "CreateLimitReachedForResource"))
    id = str(kept.next_id)
    kept.next_id += 1
    kept.subscriptions[id] = {
        "Destination": destination,
        "Protocol": "Redfish",
        "Context": str(body.get("Context", ""))[:256],
    }
    made = subscription(id, kept.subscriptions[id])
    return Answer(201, made, (("Location", made["@odata.id"]),))


def unsubscribe(fleet: Fleet, server: int, id: str, now: int) -> Answer:
    del fleet.change(server).subscriptions[id]
    return Answer(DONE)


Change = Callable[[Fleet, int, Request, int], Answer]
POSTS: Final[Mapping[str, tuple[str, Change]]] = MappingProxyType(
    {
        RESET_TARGET: ("ConfigureComponents", reset),
        MANAGER_RESET_TARGET: ("ConfigureManager", reset_manager),
        f"{V1}/AccountService/Accounts": ("ConfigureUsers", make_account),
        f"{V1}/EventService/Subscriptions": ("ConfigureComponents", subscribe),
    }
)
"""Path -> (privilege that is needed, change)."""
PATCHES: Final[Mapping[str, tuple[str, Change]]] = MappingProxyType(
    {
        f"{V1}/Systems/1": ("ConfigureComponents", patch_system),
        f"{V1}/Chassis/1": ("ConfigureComponents", patch_chassis),
        f"{V1}/Managers/1/NetworkProtocol": ("ConfigureManager", patch_network),
    }
)
