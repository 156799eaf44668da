"""Everything needed when nothing else is left, in one file: `evac bundle`.

manifest.json               what is in it, how old, what is missing and why; the digest of every part
START.txt                   what to type on a laptop
estate/                     the files that evac reads, including policy and access file
plans/, runbooks/           for every site, pair, group, hall and feed; the same step ids on paper
store/entries.jsonl         registers, epochs, plans, requests of people; never a lease, a vote or a proof
store/journals/             every journal, segment by segment, with its hash chain
sealed/break-glass.bin      values of secrets, which any k of n people can open together
wheelhouse/                 evac itself
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

import evac
from evac import estate as estates
from evac.app.controlling import read_policy
from evac.app.published import KEY as OBSERVED
from evac.app.published import decode as decode_observed
from evac.bundle import sealing
from evac.bundle.plans import LeftOut, plans_of, without_small_plans
from evac.bundle.proof import signer
from evac.derive import situation
from evac.drivers.capabilities import RestoresData
from evac.drivers.process import CA, CERT, KEY
from evac.drivers.process.client import agent_endpoints
from evac.drivers.registry import DRIVERS, can
from evac.engine.runs.effects import EFFECTS
from evac.engine.runs.effects import decode as decode_effects
from evac.engine.stores import datasets
from evac.estate.codecs.bundle import (
    MAX_READ_BYTES,
    Beside,
    BundleDamaged,
    Source,
    bundle_beside,
    content_digest,
    listing,
    manifest_of,
    open_bundle,
    write_bundle,
)
from evac.estate.codecs.policy import policy_beside
from evac.estate.format.document import ACCESS_FILE, NOTICES_FILE, POLICY_FILE, beside, find_files
from evac.estate.format.problems import Problems
from evac.model.digest import estate_digest
from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.net.secrets import secret_of
from evac.store.anchors import decode
from evac.store.generation import Copied, Generation, copy_of, read_generation
from evac.store.opening import open_store
from evac.store.port import Entry
from evac.views.words import listed

BUDGET_MS: Final = 60_000
SEALED: Final = "sealed/break-glass.bin"
LOCKED: Final = "sealed/bundle.bin"
ENTRIES: Final = "store/entries.jsonl"
WHEELS_MOST: Final = 2_000
_REFERENCE: Final = re.compile(r"(env:[A-Za-z_]\w*|file:/[^\x00-\x1f]+|command:/[^\x00-\x1f]+)")
CHECK: Final = """\
    python3 -c "if True:
      import hashlib, json, sys, zipfile
      bundle, first = zipfile.ZipFile(sys.argv[1]), 'manifest.json'
      digest = lambda name: hashlib.sha256(bundle.read(name)).hexdigest()
      parts = {{p['name']: p['sha256'] for p in json.loads(bundle.read(first))['parts']}}
      same = sorted(bundle.namelist()) == sorted([first, *parts])
      same = same and all(digest(name) == parts[name] for name in parts)
      print('sha256:' + digest(first) if same else 'CHANGED: use another copy')
    " {file}
"""
"""Prints the digest of a bundle without evac: anyone who could exchange it could exchange the evac in it."""
START: Final = """\
evac bundle of {name}

This one file starts the controller of evac on a laptop that has Python {python} or later and no network.

  0. Check that no one replaced this file, before you install evac from it. This command must print the
     digest that is in every share file and that was written down elsewhere. Compare the command, too: anyone
     who replaced the file could have changed this text.
{check}
  1. Extract evac from it and install it (once):
       python3 -m zipfile -e {file} bundle
       python3 -m venv evac-venv
       evac-venv/bin/pip install --no-index --find-links bundle/wheelhouse 'evac[{extras}]'
  2. Look at it:
       evac-venv/bin/evac bundle show {file}
       evac-venv/bin/evac bundle verify {file}
  3. Start, {with_shares}with the names of the sites that are lost:
       evac-venv/bin/evac serve --bundle {file} --listen 127.0.0.1:8400 \
         {shares}--confirm SITE --reason WHY
     It says where it unpacked everything and what to type next.

Starting it opens a new generation: from then on every agent, and every system that keeps tokens,
rejects the controllers of the old sites. The runbooks can be printed: they need no computer at all.
"""
EXTRAS: Final = "all"


@dataclass(frozen=True, slots=True)
class BundleRequest:
    """store: None: nothing of a store is included. shares: (k, n) if secrets are locked; shares_to: folders
    of the share holders. sealed: further references, or files, to lock. at_ms: creation time.
    """

    estate: Path
    target: Path
    at_ms: int
    store: str | None = None
    policy: Path | None = None
    wheelhouse: Path | None = None
    shares: tuple[int, int] | None = None
    shares_to: tuple[Path, ...] = ()
    sealed: tuple[str, ...] = ()
    as_of: date | None = None
    budget_ms: int = BUDGET_MS
    encrypt: bool = False
    """Whether everything but evac itself is locked with the shares."""
    sign: Path | None = None
    """The private key (ed25519) that signs the manifest."""
    tools: tuple[Path, ...] = ()
    """Programs to include."""


@dataclass(frozen=True, slots=True)
class Written:
    """digest: of the manifest, to be written down elsewhere."""

    target: Path
    digest: str
    parts: int
    plans: int
    left_out: tuple[LeftOut, ...]
    shares: tuple[Path, ...]


@dataclass(slots=True)
class _Making:
    """A bundle being made."""

    asked: BundleRequest
    estate: Estate
    sources: list[Source] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def leave_out(self, what: str, why: str) -> None:
        self.left_out.append({"what": what, "why": why})


def make_bundle(
    asked: BundleRequest,
    tell: Callable[[float, str], None] = lambda share, words: None,
    draw: sealing.Draw = os.urandom,
) -> Written:
    """Read everything and write one file. Same input, same bytes, except for locked parts, whose key is
    random. Raises EstateError, InvalidInput, StoreError.
    """
    if asked.shares_to and asked.shares is None:
        raise InvalidInput("share-count", "--shares-to was used without --share", "add --share 2/3")
    if asked.shares is not None and not asked.shares_to:
        raise InvalidInput("share-folders", "no one would receive the shares", "add --shares-to DIR")
    if asked.encrypt and asked.shares is None:
        raise InvalidInput("share-count", "no one could open it", "add --share 2/3 and --shares-to DIR")
    if asked.shares is not None:
        sealing.check_folders(asked.shares[1], asked.shares_to)
    _files_of(asked.sealed)
    estate = estates.load(asked.estate, asked.as_of)
    policy = read_policy(asked.estate, asked.policy, estate)
    with tempfile.TemporaryDirectory(prefix=".evac-bundle-", dir=asked.target.parent) as room:
        return _make(_Making(asked, estate), policy, Path(room), tell, draw)


def _make(
    making: _Making, policy: RunPolicy, room: Path, tell: Callable[[float, str], None], draw: sealing.Draw
) -> Written:
    asked, estate = making.asked, making.estate
    _add_files(making)
    copied, generation = _copy(asked.store)
    planned = plans_of(_as_seen(estate, copied), policy, copied.entries, asked.budget_ms, room, tell)
    making.sources += planned.sources
    making.left_out += planned.left_out
    _add_store(making, copied, generation)
    wheels = _add_wheels(making)
    _add_tools(making)
    material = _material(making)
    making.sources.append(Source("START.txt", _start(making).encode()))
    left_out = [{key: _printable(words) for key, words in row.items()} for row in making.left_out]
    values = {
        **making.values,
        "evac": evac.__version__,
        "made_at_ms": asked.at_ms,
        "plans": list(planned.rows),
        "left_out": left_out,
        "wheels": wheels,
        "estate": {"name": estate.name, "digest": estate_digest(estate)},
    }
    inside = b""
    if asked.encrypt:
        inside, values = _inside(making, values, room), _blank(values)
    shares = () if material is None else _seal(making, material, values, draw, inside)
    _check_read(making.sources)
    sign = None if asked.sign is None else signer(asked.sign)
    with bundle_beside(asked.target, values, making.sources, sign) as made:
        _check_shape(made.path)
        files = _hand_out(made, making, shares)
    return Written(asked.target, made.digest, len(making.sources), len(planned.rows), tuple(left_out), files)


def _check_read(sources: Sequence[Source]) -> None:
    """Check that a reader can hold store and lock in memory, as opening requires. Raises InvalidInput."""
    for source in sources:
        size = len(source.data) if isinstance(source.data, bytes) else 0
        if source.name.startswith(("store/", "sealed/")) and size > MAX_READ_BYTES:
            raise InvalidInput(
                "bundle-size",
                f"{source.name} has {size:,} bytes; at most {MAX_READ_BYTES:,} of a part are "
                "read when a bundle is opened",
                "without --store the bundle still has estate, policy, plans and runbooks",
            )


def _check_shape(path: Path) -> None:
    try:
        with open_bundle(path) as bundle:
            manifest_of(bundle)
    except BundleDamaged as error:
        raise InvalidInput(
            "bundle-unreadable",
            f"the bundle could not be opened again: {error.message}",
            "files and secrets with unprintable names cannot be included: rename them",
        ) from error


def _hand_out(made: Beside, making: _Making, shares: Sequence[sealing.Share]) -> tuple[Path, ...]:
    """Put the bundle in its place once everyone has a share, without which no one could open it."""
    if not shares:
        made.put()
        return ()
    title = f"evac bundle of {making.estate.name}\nDigest of the bundle: sha256:{made.digest}\n"
    title += "Before you install evac from it, this command must print that digest:\n"
    title += CHECK.format(file=making.asked.target.name)
    files = sealing.write_shares(shares, making.asked.shares_to, title)
    try:
        made.put()
    except InvalidInput:
        sealing.take_back(files)
        raise
    return files


def _as_seen(estate: Estate, copied: Copied) -> Estate:
    found = copied.entries.get(OBSERVED)
    if found is None:
        return estate
    moved = {
        key.removeprefix(EFFECTS): decode_effects(value)
        for key, value in copied.entries.items()
        if key.startswith(EFFECTS)
    }
    return situation.of(estate, decode_observed(found, moved)).estate


def _add_files(making: _Making) -> None:
    """Add the files that evac reads from the estate's folder, and no others."""
    path, asked = making.asked.estate, making.asked
    found = find_files(path, Problems())
    files = [*found.documents, *found.tables.values()]
    apart = (beside(path, name) for name in (POLICY_FILE, ACCESS_FILE, NOTICES_FILE))
    files += [file for file in apart if file is not None and file.is_file()]
    names = {file.name for file in files}
    making.sources += [Source(f"estate/{file.name}", file.read_bytes()) for file in files]
    making.values["estate_file"] = "" if path.is_dir() else path.name
    policy = asked.policy or policy_beside(path)
    making.values["policy"] = "" if policy is None else f"estate/{POLICY_FILE}"
    if asked.policy is not None:
        making.sources = [one for one in making.sources if one.name != f"estate/{POLICY_FILE}"]
        making.sources.append(Source(f"estate/{POLICY_FILE}", asked.policy.read_bytes()))
    if policy is None:
        making.leave_out("a policy", "there is none, so the cautious default policy applies")
    if path.is_dir():
        for other in sorted(one.name for one in path.iterdir() if not one.name.startswith(".")):
            if other not in names:
                making.leave_out(f"estate/{other}", "evac does not read it, and it may contain a secret")


def _copy(url: str | None) -> tuple[Copied, Generation]:
    if url is None:
        return Copied({}, {}, True), Generation()

    async def work() -> tuple[Copied, Generation]:
        store = open_store(url)
        try:
            return await copy_of(store), await read_generation(store)
        finally:
            await store.close()

    return asyncio.run(work())


def _add_store(making: _Making, copied: Copied, generation: Generation) -> None:
    """Add journals with their heads, all other entries with their keys, and the generation of the store."""
    if making.asked.store is None:
        making.leave_out("journals, registers and epochs", "no store was given: add --store")
    if not copied.still:
        making.leave_out(
            "a snapshot of the store", "it changed while it was being copied: make another bundle"
        )
    lines = [
        orjson.dumps([key, _text(value)])
        for key, value in sorted(without_small_plans(copied.entries).items())
    ]
    making.sources.append(Source(ENTRIES, b"".join(line + b"\n" for line in lines)))
    journals = []
    for stream, segments in sorted(copied.journals.items()):
        part = f"store/journals/{quote(stream, safe='')}.segments"
        making.sources.append(Source(part, b"".join(_text(one).encode() + b"\n" for one in segments)))
        last = decode(stream, len(segments), segments[-1])
        journals.append(
            {
                "stream": stream,
                "part": part,
                "segments": last.number,
                "records": last.last,
                "hash": last.hash,
                "token": last.token,
            }
        )
    making.values["journals"] = journals
    making.values["generation"] = {"number": generation.number, "opener": generation.opener}
    making.values["epochs"] = _epochs(copied.entries)
    making.values["open_runs"] = sorted(
        key.removeprefix("open/") for key in copied.entries if key.startswith("open/")
    )


def _epochs(entries: Mapping[str, bytes]) -> list[dict[str, Any]]:
    found = []
    for key, value in sorted(entries.items()):
        if key.startswith(datasets.PREFIX):
            epoch = datasets.decode(key.removeprefix(datasets.PREFIX), Entry(key, value, 1))
            found.append({"store": epoch.store, "epoch": epoch.number, "holder": epoch.holder})
    return found


def _add_wheels(making: _Making) -> list[str]:
    folder = making.asked.wheelhouse
    if folder is None:
        making.leave_out("evac itself", "no --wheelhouse: evac must already be installed on the laptop")
        return []
    wheels = sorted(folder.glob("*.whl"))
    if not any(wheel.name.startswith("evac-") for wheel in wheels) or len(wheels) > WHEELS_MOST:
        raise InvalidInput(
            "wheelhouse-no-evac", f"{folder} contains no evac wheel", "create one: make wheelhouse DIR=folder"
        )
    making.sources += [Source(f"wheelhouse/{wheel.name}", wheel) for wheel in wheels]
    return [wheel.name for wheel in wheels]


def _add_tools(making: _Making) -> None:
    """Add programs, and record the missing ones that restores of this estate use."""
    carried: dict[str, Path] = {}
    for path in making.asked.tools:
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise InvalidInput("tool-unusable", f"{path} is not a program", "give one that runs here")
        if path.name in carried:
            raise InvalidInput("tool-twice", f"two tools are called {path.name}", "give only one of them")
        carried[path.name] = path
    making.sources += [Source(f"{sealing.TOOLS}/{name}", path) for name, path in sorted(carried.items())]
    users: dict[str, set[str]] = {}
    for endpoint in making.estate.endpoints:
        if can(endpoint.driver, RestoresData):
            usual = next(
                (one.default for one in DRIVERS[endpoint.driver].settings if one.key == "program"), ""
            )
            program = Path(str(endpoint.settings.get("program", usual.strip("`")))).name
            users.setdefault(program, set()).add(endpoint.subject)
    for program in sorted(users.keys() - carried.keys() - {""}):
        why = f"restores of {listed(sorted(users[program]))} use it: add --tool /PATH/{program}"
        making.leave_out(f"the program {program}", why)


def _seal(
    making: _Making, material: sealing.Material, values: dict[str, Any], draw: sealing.Draw, inside: bytes
) -> tuple[sealing.Share, ...]:
    """Lock the secrets last, bound to everything else that the bundle contains."""
    assert making.asked.shares is not None

    def content(lock: sealing.Lock) -> str:
        files = [] if inside else sorted(material.files)
        values["sealed"] = {**lock.values(), "part": SEALED, "files": files}
        return content_digest(values, listing(making.sources))

    _, data, locked, shares = sealing.lock_up(material, inside, *making.asked.shares, draw, content)
    making.sources.append(Source(SEALED, data))
    if inside:
        making.sources.append(Source(LOCKED, locked))
    return shares


def _inside(making: _Making, values: Mapping[str, Any], room: Path) -> bytes:
    """The whole bundle except evac itself, to be locked; only evac stays outside."""
    open_to_all = ("wheelhouse/", "START.txt")
    hidden = [one for one in making.sources if not one.name.startswith(open_to_all)]
    making.sources = [one for one in making.sources if one.name.startswith(open_to_all)]
    _check_read(hidden)
    path = room / sealing.INSIDE
    write_bundle(path, {**values, "wheels": []}, hidden)
    _check_shape(path)
    if path.stat().st_size > MAX_READ_BYTES:
        raise InvalidInput("bundle-size", "the files to encrypt are larger than 1 GiB", "leave --store out")
    return path.read_bytes()


def _blank(values: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of an encrypted bundle, which reveals nothing about the estate."""
    lists = ("plans", "journals", "epochs", "open_runs", "left_out", "references")
    return {
        **{key: values[key] for key in ("evac", "made_at_ms", "wheels")},
        **{key: [] for key in lists},
        "estate": {"name": "", "digest": ""},
        "estate_file": "",
        "policy": "",
        "generation": {"number": 0, "opener": ""},
        "sealed": None,
        "encrypted": LOCKED,
    }


def _material(making: _Making) -> sealing.Material | None:
    """References of everything that drivers need; if people hold shares, also their values, to be locked."""
    asked = making.asked
    rows = _references(making.estate)
    for one in asked.sealed:
        if _REFERENCE.fullmatch(one):
            rows.setdefault(one, []).append("asked for")
    values: dict[str, str] = {}
    files = {name: _file(path) for name, path in _files_of(asked.sealed).items()}
    files |= _certificates(making)
    if asked.shares is None and asked.sealed:
        raise InvalidInput("share-count", "nothing is encrypted without shares", "add --share 2/3")
    for reference in sorted(rows) if asked.shares is not None else ():
        try:
            values[reference] = secret_of(reference, whole=True).reveal()
        except EvacError as error:
            making.leave_out(f"the value of {reference}", error.message)
    if asked.shares is None and rows:
        making.leave_out(
            f"values of {len(rows)} secrets",
            "without --share K/N, the bundle contains only references to them",
        )
    making.values["references"] = [
        {"reference": reference, "for": sorted(set(needed)), "sealed": reference in values}
        for reference, needed in sorted(rows.items())
    ]
    making.values["sealed"] = None
    return None if asked.shares is None else sealing.Material(values, files)


def _files_of(sealed: Sequence[str]) -> dict[str, Path]:
    """Files to lock, by their base names. Raises InvalidInput if two have the same."""
    found = {name: Path(os.environ[name]) for name in (CA, CERT, KEY) if os.environ.get(name)}
    agents = set(found)
    for one in sealed:
        path = Path(one)
        if _REFERENCE.fullmatch(one):
            continue
        if path.name in found and found[path.name].resolve() != path.resolve():
            raise InvalidInput(
                "seal-name",
                f"two encrypted files would be named {path.name}: {found[path.name]} and {path}",
                "rename one of them",
            )
        found[path.name] = path
        agents.discard(path.name)
    return {name: path for name, path in found.items() if name not in agents}


def _certificates(making: _Making) -> dict[str, bytes]:
    """The authority that agents are checked against and the certificate presented to them; to be locked."""
    agents = [str(end.settings["agent"]) for end in agent_endpoints(making.estate).values()]
    named = {name: os.environ[name] for name in (CA, CERT, KEY) if os.environ.get(name)}
    if any(url.startswith("https:") for url in agents):
        for name in (CERT, KEY):
            if name not in named:
                making.leave_out("a certificate to present to agents", f"{name} is not set here")
        if making.asked.shares is None and named:
            making.leave_out("certificates for agents", "no --share k/n")
    return {name: _file(Path(path)) for name, path in named.items()} if making.asked.shares else {}


def _references(estate: Estate) -> dict[str, list[str]]:
    """Reference -> what needs it, in words."""
    found: dict[str, list[str]] = {}
    for endpoint in estate.endpoints:
        where = f"{endpoint.driver} of {endpoint.subject} at {endpoint.at}"
        for value in endpoint.settings.values():
            for part in value if isinstance(value, tuple) else (value,):
                whole = str(part)
                for text in (whole, whole.partition("=")[2]):  # `NAME=reference` for a program's environment
                    if _REFERENCE.fullmatch(text):
                        found.setdefault(text, []).append(where)
    return found


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput("seal-missing", f"{path} cannot be read: {error.strerror}") from error


def _start(making: _Making) -> str:
    """The instructions in START.txt."""
    needed = making.asked.shares[0] if making.asked.shares else 0
    proof = "--share FILE " * needed if needed else "--digest DIGEST "
    return START.format(
        name=making.asked.target.name if making.asked.encrypt else making.estate.name,
        file=making.asked.target.name,
        python="3.11",
        extras=EXTRAS,
        check=CHECK.format(file=making.asked.target.name),
        with_shares=f"with the shares of {needed} people and " if needed else "",
        shares=proof,
    )


def _printable(words: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
