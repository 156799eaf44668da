"""Start a controller from a bundle: a new folder, created atomically, with a store of a new generation.

estate/, plans/, runbooks/    as in the bundle
break-glass/                  what the shares opened: a file for each reference, and files/
evac.sqlite                   the new store: journals checked by their chains, epochs above the old ones
opened.json                   the bundle, the generation, who opened it and why

Before a generation is opened, every agent is asked: an agent that knows a newer generation, or another one
opened since, is an error; an agent that does not respond must be at a site that a person confirms as lost.
Then each responding agent is notified before anything acts.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from evac import estate as estates
from evac.app.anchoring import AgentReach, agents_of
from evac.bundle import sealing
from evac.bundle.making import ENTRIES
from evac.bundle.proof import prove
from evac.bundle.sealing import (
    GLASS,
    INSIDE,
    OPENED,
    STORE,
    TOOLS,
    UNPACKED,
    beside,
    put,
    remove_leftovers,
)
from evac.drivers.process import CA, CERT, KEY
from evac.drivers.process.driver import AgentGenerations
from evac.engine.lead import watch_journal
from evac.engine.stores import datasets
from evac.engine.stores.guards import HOLD_KEY
from evac.estate.codecs.bundle import Bundle, BundleDamaged, check_name, manifest_of, open_bundle
from evac.model.errors import ActionError, Corrupt, EvacError, InvalidInput, NotAllowed, UnknownDomain
from evac.model.generation import GENERATION_MOST, epoch_in, token_in
from evac.model.records import dataclass
from evac.net import secrets
from evac.store.anchors import Anchor, Segment, decode, key_of, verify_chain
from evac.store.anchors import encode as encode_segment
from evac.store.generation import KEY as GENERATION
from evac.store.generation import PAGE, Generation, encode, fill, fill_store, read_generation
from evac.store.opening import open_store
from evac.store.port import Entry, MemoryStore, Put, Store
from evac.views.words import listed

ASK_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class OpeningRequest:
    """into: a folder that does not exist yet, or that of this same bundle. confirm: sites that a person
    confirms as lost. generation: to open; 0: the next one. store: an empty store to fill, instead of a new
    file in the folder.
    """

    bundle: Path
    into: Path
    who: str
    reason: str
    shares: Sequence[sealing.Share] = ()
    confirm: tuple[str, ...] = ()
    generation: int = 0
    store: str = ""
    digest: str = ""
    """Of the bundle, or its first characters, as written down elsewhere."""
    signer: str = ""
    """The public key of the trusted signer, or its file."""


@dataclass(frozen=True, slots=True)
class Opened:
    """again: whether it was opened before and is resumed. held: runs on hold until someone has looked at
    them. told: sites whose agents know the generation.
    """

    folder: Path
    estate: Path
    policy: Path | None
    generation: int
    again: bool
    held: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    other: str = ""

    @property
    def store(self) -> str:
        return self.other or f"sqlite:{self.folder / STORE}"

    @property
    def secrets(self) -> Path | None:
        """The folder for EVAC_SECRETS; None if nothing was opened."""
        path = self.folder / GLASS
        return path if path.is_dir() else None


def default_folder(bundle: Path) -> Path:
    """In this user's state folder, by the digest of the bundle. Raises BundleDamaged."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "evac"
    with open_bundle(bundle) as found:
        return base / f"bundle-{found.digest[:16]}"


def open_from(asked: OpeningRequest, now_ms: int) -> Opened:
    """Open a bundle. Raises BundleDamaged with the names of all damaged parts, InvalidInput, NotAllowed,
    StoreError.
    """
    remove_leftovers(asked.into)
    with contextlib.ExitStack() as reading:
        outer = reading.enter_context(open_bundle(asked.bundle))
        _check_whole(outer)
        kept = _kept(asked, outer)
        if kept is not None:
            return _opened(asked.into, outer, kept, again=True)
        prove(outer, asked.digest, asked.signer, by_shares=bool(asked.shares))
        asked.into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with beside(asked.into) as place:
            bundle = reading.enter_context(_inside(outer, asked, place))
            _unpack(bundle, place)
            _unlock(outer, asked, place)
            with _with_secrets(place / GLASS):
                known, silent = _ask_agents(place, bundle, (0, ""), asked.confirm)
                number = _next(bundle, asked, known, silent)
                left = _cut_off(bundle, asked, number)
                opened = left or Generation(number, os.urandom(8).hex(), now_ms)
                held = _make_store(place / STORE, bundle, opened, asked, filled=left is not None)
                told = {
                    "bundle": outer.digest,
                    "generation": number,
                    "opener": opened.opener,
                    "at_ms": opened.at_ms,
                    "who": asked.who,
                    "reason": asked.reason,
                    "confirmed": list(asked.confirm),
                    "store": asked.store,
                    "policy": bundle.values["policy"],
                    "estate_file": bundle.values["estate_file"],
                }
                (place / OPENED).write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
                put(place, asked.into)
        found = _opened(asked.into, bundle, told, again=False)
        with _with_secrets(asked.into / GLASS):
            known, silent = _ask_agents(asked.into, bundle, (number, opened.opener))
    for site, answer in known.items():
        if answer != (number, opened.opener):
            raise _taken(site, answer[0])
    return replace(found, held=held, told=tuple(sorted(known)), silent=tuple(silent))


def _check_whole(bundle: Bundle) -> None:
    """Raise BundleDamaged with the names of all changed parts."""
    manifest_of(bundle)
    if problems := bundle.problems():
        names = ", ".join(problem.part for problem in problems)
        raise BundleDamaged(f"{bundle.path.name} is damaged: {names}", problems[0].part)


@contextlib.contextmanager
def _inside(outer: Bundle, asked: OpeningRequest, place: Path) -> Iterator[Bundle]:
    """The bundle to start from: this one, or the one locked inside it. Raises InvalidInput."""
    part = outer.values.get("encrypted")
    if not part:
        yield outer
        return
    sealed = outer.values.get("sealed")
    if not asked.shares or not sealed:
        raise InvalidInput("bundle-encrypted", "everything in this bundle is encrypted", "add --share FILE")
    lock = sealing.Lock(sealed["name"], sealed["needed"], sealed["people"])
    path = place / INSIDE
    _write_private(path, sealing.unlock_inside(lock, outer.read(part), asked.shares, outer.content))
    with open_bundle(path) as found:
        path.unlink()
        _check_whole(found)
        yield found


def _kept(asked: OpeningRequest, bundle: Bundle) -> dict[str, Any] | None:
    """What an earlier opening of this bundle wrote; None if the folder does not exist. Shares open what is
    not open yet. Raises InvalidInput if the request differs from what was opened.
    """
    folder = asked.into
    if not folder.exists():
        return None
    try:
        told = dict(orjson.loads((folder / OPENED).read_bytes()))
        if told["bundle"] != bundle.digest or not isinstance(told["generation"], int):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise _other_folder(folder, "already exists, and is not from this bundle") from None
    if asked.generation not in (0, told["generation"]):
        raise _other_folder(folder, f"has generation {told['generation']}, not {asked.generation}")
    if asked.store and asked.store != told.get("store", ""):
        raise _other_folder(folder, "was opened with a different store from --store")
    if asked.shares and not (folder / GLASS).is_dir():
        with beside(folder) as place:
            _unlock(bundle, asked, place)
            put(place / GLASS, folder / GLASS)
    return told


def _other_folder(folder: Path, why: str) -> InvalidInput:
    return InvalidInput("bundle-folder", f"{folder} {why}", "choose a new folder: --into NEWDIR")


def _opened(folder: Path, bundle: Bundle, told: Mapping[str, Any], *, again: bool) -> Opened:
    values = {**bundle.values, **told}
    policy, other = values["policy"], str(told.get("store", ""))
    return Opened(
        folder,
        _estate(folder, values),
        folder / policy if policy else None,
        int(told["generation"]),
        again,
        other=other,
    )


def _estate(folder: Path, values: Mapping[str, Any]) -> Path:
    name = values["estate_file"]
    return folder / "estate" / name if name else folder / "estate"


@contextlib.contextmanager
def _with_secrets(folder: Path) -> Iterator[None]:
    """Context in which references resolve to opened secrets, if any, and agents are shown the certificate
    among them.
    """
    told = environment_of(folder)
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def environment_of(folder: Path) -> dict[str, str]:
    """Environment variables with which a process uses the opened secrets from any working directory: paths of
    secrets and restore programs, and how to reach agents.
    """
    folder = folder.absolute()
    tools, path = str(folder.parent / TOOLS), os.environ.get("PATH", os.defpath)
    is_new = Path(tools).is_dir() and tools not in path.split(os.pathsep)
    first = {"PATH": f"{tools}{os.pathsep}{path}"} if is_new else {}
    if not folder.is_dir():
        return first
    certificates = {name: folder / "files" / name for name in (CA, CERT, KEY)}
    found = {name: str(path) for name, path in certificates.items() if path.is_file()}
    return {secrets.OPENED: str(folder), **found, **first}


def _unpack(bundle: Bundle, place: Path) -> None:
    for name in bundle.parts:
        if name.split("/")[0] in UNPACKED:
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            bundle.copy(name, target)
            if target.parent.name == TOOLS:
                target.chmod(0o700)


def _unlock(bundle: Bundle, asked: OpeningRequest, place: Path) -> None:
    """What the shares open, if there are any, under `place`. Raises InvalidInput."""
    sealed = bundle.values.get("sealed")
    if not asked.shares:
        return
    if sealed is None:
        raise InvalidInput("share-foreign", "nothing in this bundle is encrypted", "remove the shares")
    lock = sealing.Lock(sealed["name"], sealed["needed"], sealed["people"])
    material = sealing.unlock(lock, bundle.read(sealed["part"]), asked.shares, bundle.content)
    files = {secrets.name_of(reference): text.encode() for reference, text in material.values.items()}
    files |= {check_name(f"files/{name}"): held for name, held in material.files.items()}
    for name, data in files.items():
        _write_private(place / GLASS / name, data)
    (place / GLASS).mkdir(exist_ok=True, mode=0o700)


def _write_private(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _ask_agents(
    folder: Path, bundle: Bundle, own: tuple[int, str], confirm: Sequence[str] = ()
) -> tuple[dict[str, tuple[int, str]], dict[str, str]]:
    """(site -> (generation, opener) that its agent knows; sites whose agents are silent). Raises
    UnknownDomain for a confirmed site that does not exist.
    """
    estate = estates.load(_estate(folder, bundle.values))
    sites = [site.id for site in estate.sites]
    if strange := sorted(set(confirm).difference(sites)):
        words = f"the estate of the bundle has no site {listed(strange)} to confirm as lost"
        raise UnknownDomain("unknown-domain", words, f"its sites are: {listed(sites, 20)}")
    agents = agents_of(estate)

    async def one(at: AgentReach) -> tuple[int, str] | str:
        client = AgentGenerations(*at)
        try:
            return (await client.ask(*own, ASK_S))[:2]
        except ActionError as error:
            return error.message
        finally:
            await client.close()

    async def work() -> list[tuple[int, str] | str]:
        return await asyncio.gather(*(one(agents[site]) for site in sorted(agents)))

    found = dict(zip(sorted(agents), asyncio.run(work()), strict=True))
    silent = {site: answer for site, answer in found.items() if isinstance(answer, str)}
    return {site: answer for site, answer in found.items() if not isinstance(answer, str)}, silent


def _next(
    bundle: Bundle, asked: OpeningRequest, known: Mapping[str, tuple[int, str]], silent: Mapping[str, str]
) -> int:
    """The generation to open. Raises NotAllowed."""
    unnamed = sorted(set(silent) - set(asked.confirm))
    if unnamed:
        typed = " ".join(f"--confirm {site}" for site in unnamed)
        why = "; ".join(f"{site}: {silent[site]}" for site in unnamed)
        raise NotAllowed(
            "site-silent",
            f"no one can notify the agents of {', '.join(unnamed)}: {why}",
            f"if these sites are lost, confirm it: {typed}; the docs explain what "
            "their controllers can still do",
        )
    own: int = bundle.values["generation"]["number"]
    newest = max([own, *(number for number, _ in known.values())])
    if newest > own and not asked.generation:
        raise _taken(next(site for site, (number, _) in known.items() if number == newest), newest)
    number = asked.generation or newest + 1
    if not newest < number <= GENERATION_MOST:
        raise NotAllowed(
            "generation-older",
            f"generation {newest} has already been opened; {number} does not come after it",
            f"choose one above {newest}: --generation {newest + 1}",
        )
    return number


def _taken(site: str, number: int) -> NotAllowed:
    return NotAllowed(
        "generation-taken",
        f"the agent of {site} knows generation {number}, which someone else opened",
        f"continue with that controller; to take over from it: --generation {number + 1} --into NEWDIR",
    )


@dataclass(frozen=True, slots=True)
class _Contents:
    """Contents of a new store, except its generation. held: open runs, which a hold stops."""

    entries: dict[str, bytes]
    heads: list[Segment]
    held: tuple[str, ...]


def _contents(bundle: Bundle, generation: Generation, asked: OpeningRequest) -> _Contents:
    """Read the contents. Raises BundleDamaged for a journal whose chain does not verify."""
    entries = _entries(bundle)
    journals = _journals(bundle)
    held = tuple(sorted(key.removeprefix("open/") for key in entries if key.startswith("open/")))
    for key, value in list(entries.items()):
        if key.startswith(datasets.PREFIX):
            entries[key] = _above(key, value, generation.number)
    if held:
        words = f"opened from a bundle: check {', '.join(held)} first; it may have continued since then"
        entries[HOLD_KEY] = orjson.dumps({"who": asked.who, "reason": words, "at_ms": generation.at_ms})
    for stream, segments in journals.items():
        entries |= {key_of(stream, number): value for number, value in enumerate(segments, 1)}
    heads = [decode(stream, len(segments), segments[-1]) for stream, segments in journals.items()]
    entries |= _first_words(heads, generation, asked, bundle, token_in(generation.number, 0))
    return _Contents(entries, heads, held)


def _make_store(
    path: Path, bundle: Bundle, generation: Generation, asked: OpeningRequest, *, filled: bool
) -> tuple[str, ...]:
    """Make the new store, or fill one elsewhere; return the runs on hold. filled: it already has everything.
    Raises BundleDamaged, StoreError.
    """
    made = _contents(bundle, generation, asked)
    last = (GENERATION, encode(generation))
    if not asked.store:
        everything = sorted({**made.entries, GENERATION: last[1]}.items())
        fill(path, everything, token_in(generation.number, 0))
    elsewhere = made.entries if asked.store and not filled else {}
    asyncio.run(_fill_and_check(asked.store or f"sqlite:{path}", made.heads, elsewhere, last))
    return made.held


def _cut_off(bundle: Bundle, asked: OpeningRequest, number: int) -> Generation | None:
    """The generation that an interrupted opening left in the store elsewhere before it had a folder: the
    store holds exactly what this opening would write, from the same person for the same reason.
    """

    async def work() -> Generation | None:
        store = open_store(asked.store)
        try:
            found = await read_generation(store)
            if found.number != number:
                return None
            wanted = {**_contents(bundle, found, asked).entries, GENERATION: encode(found)}
            return found if await _holds_just(store, wanted) else None
        finally:
            await store.close()

    return asyncio.run(work()) if asked.store else None


async def _holds_just(store: Store, wanted: Mapping[str, bytes]) -> bool:
    count, after = 0, ""
    while page := await store.list("", after, PAGE):
        if any(wanted.get(entry.key) != entry.value for entry in page):
            return False
        count, after = count + len(page), page[-1].key
    return count == len(wanted)


def _above(key: str, value: bytes, generation: int) -> bytes:
    """An epoch of a data set above all that the old store can have reached since it was copied."""
    try:
        epoch = orjson.loads(value)
        datasets.decode(key.removeprefix(datasets.PREFIX), Entry(key, value, 1))
        return orjson.dumps({**epoch, "epoch": epoch_in(generation, int(epoch["epoch"]))})
    except (EvacError, KeyError, TypeError, ValueError) as error:
        raise BundleDamaged(f"{key} of the store cannot be read", ENTRIES) from error


def _first_words(
    heads: Sequence[Segment], generation: Generation, asked: OpeningRequest, bundle: Bundle, token: int
) -> dict[str, bytes]:
    """The first record of the new generation: who opened it, from what, and why."""
    stream = watch_journal.STREAM
    head = next((one for one in heads if one.stream == stream), None)
    number, first, previous = (head.number + 1, head.last + 1, head.hash) if head else (1, 1, "")
    lost = f"; lost: {', '.join(asked.confirm)}" if asked.confirm else ""
    words = f"{asked.who} opened generation {generation.number} from a bundle: {asked.reason}{lost}"
    told = {"generation": generation.number, "bundle": bundle.digest}
    record = watch_journal.encode(watch_journal.Notice("leader", generation.at_ms, "", words, told))
    return {key_of(stream, number): encode_segment(stream, number, first, token, previous, [record])}


def _entries(bundle: Bundle) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        for line in bundle.read(ENTRIES).splitlines():
            key, value = orjson.loads(line)
            found[str(key)] = base64.b64decode(value, validate=True)
    except (ValueError, TypeError) as error:
        raise BundleDamaged(f"{ENTRIES} cannot be read", ENTRIES) from error
    return found


def _journals(bundle: Bundle) -> dict[str, list[bytes]]:
    """Stream -> segments, up to the head that the manifest names."""
    found: dict[str, list[bytes]] = {}
    for row in bundle.values["journals"]:
        stream, part, head = row["stream"], row["part"], row["hash"]
        try:
            segments = [base64.b64decode(line, validate=True) for line in bundle.read(part).splitlines()]
            last = decode(stream, len(segments), segments[-1])
        except (ValueError, IndexError, Corrupt) as error:
            raise BundleDamaged(f"the journal {stream} cannot be read", part) from error
        if last.hash != head:
            raise BundleDamaged(f"the journal {stream} does not end where the manifest says it does", part)
        found[stream] = segments
    return found


def check_journals(bundle: Bundle) -> None:
    """Raise BundleDamaged for a journal that lacks a link or was truncated."""
    journals = _journals(bundle)
    heads = [decode(stream, len(segments), segments[-1]) for stream, segments in journals.items()]

    async def work() -> None:
        store = MemoryStore(lambda: 0)
        for stream, segments in journals.items():
            for number, value in enumerate(segments, 1):
                await store.transact((), (Put(key_of(stream, number), value),))
        await _check_heads(store, heads)

    asyncio.run(work())


async def _fill_and_check(
    url: str, heads: Sequence[Segment], entries: Mapping[str, bytes], last: tuple[str, bytes]
) -> None:
    """Fill a store elsewhere, and check what any store holds now."""
    store = open_store(url)
    try:
        if entries:
            await fill_store(store, sorted(entries.items()), last)
        await _check_heads(store, heads)
    finally:
        await store.close()


async def _check_heads(store: Store, heads: Sequence[Segment]) -> None:
    """Check that every journal leads, link by link, to the head in the manifest. Raises BundleDamaged."""
    for head in heads:
        anchor = Anchor(head.stream, head.number, head.last, head.hash)
        if problems := await verify_chain(store, head.stream, [anchor]):
            raise BundleDamaged(f"the journal {head.stream}: {problems[0].message}", head.stream)
