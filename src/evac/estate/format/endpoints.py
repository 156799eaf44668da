"""Whether each endpoint can be asked for anything, and whether its driver knows what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evac.drivers.capabilities import Subject
from evac.drivers.registry import DRIVERS
from evac.drivers.spec import FENCE, Setting
from evac.estate.format.assembling import Assembly
from evac.estate.format.problems import shown
from evac.estate.format.reading import Reader
from evac.model.diagnostic import Place
from evac.model.estate import Endpoint

_SECRET_WORDS: Final = ("password", "secret", "token", "passphrase")
_NOT_SECRET: Final = ("_name", "_algorithm", "_url")
_SECTIONS: Final[Mapping[str, Subject]] = {
    "services": "service",
    "stores": "store",
    "sites": "site",
    "feeds": "feed",
}


def check_endpoints(assembly: Assembly, reader: Reader) -> None:
    """Note each endpoint that is never asked, and each setting that is unknown, missing or wrong."""
    subjects: dict[str, list[Subject]] = {}
    for section, kind in _SECTIONS.items():
        for entry in assembly.values[section]:
            subjects.setdefault(entry.id, []).append(kind)
    for endpoint in assembly.values["endpoints"]:
        found = subjects.get(endpoint.subject, [])
        used = [one for one in found if DRIVERS[endpoint.driver].serves(one, endpoint.settings)]
        if found and not used:
            _never_asked(endpoint, found[0], reader)
        for key, value in endpoint.settings.items():
            _check_setting(endpoint, key, value, found, reader)
        missing = {one.key: one for kind in used for one in _missing(endpoint, kind)}
        for one in missing.values():
            message = f"{shown(endpoint.id)} lacks {one.key}: {one.meaning}"
            hint = f"write {one.key} under settings"
            reader.problems.add("setting-missing", message, _place(reader, endpoint), hint)


def _missing(endpoint: Endpoint, kind: Subject) -> Sequence[Setting]:
    return tuple(DRIVERS[endpoint.driver].missing(kind, endpoint.settings))


def _never_asked(endpoint: Endpoint, kind: Subject, reader: Reader) -> None:
    """Why nothing is asked of it, and which drivers would be."""
    spec, proof = DRIVERS[endpoint.driver], endpoint.settings.get(FENCE)
    if kind == "site" and proof is not None:
        message = f"{endpoint.driver} cannot prove a fence by {shown(str(proof))}: nothing is asked of it"
        others = {FENCE: proof}
    else:
        message = f"{endpoint.driver} does nothing for a {kind}: nothing is asked of {shown(endpoint.id)}"
        others = {}
    able = [name for name, one in DRIVERS.items() if one.serves(kind, others)]
    hint = f"drivers for a {kind}: {', '.join(able)}"
    proofs = [one for one in spec.proofs if one in ("network", "power")]
    if kind == "site" and proof is None and proofs:
        hint = f"if it fences the site, say so: {FENCE}: {' or '.join(proofs)}"
    elif spec.by_person or not spec.acts:
        hint = "leave it out: a step without an endpoint is done by a person"
    reader.problems.add("endpoint-never-asked", message, _place(reader, endpoint, "driver"), hint)


def _check_setting(
    endpoint: Endpoint, key: str, value: object, kinds: Sequence[Subject], reader: Reader
) -> None:
    known = {one.key: one for one in DRIVERS[endpoint.driver].all_settings}
    if kinds and "site" not in kinds:
        del known[FENCE]
    place = _place(reader, endpoint, f"settings/{key}")
    setting = known.get(key)
    worded = any(word in key for word in _SECRET_WORDS) and not key.endswith(_NOT_SECRET)
    is_secret = worded if setting is None else worded or setting.kind == "secret"
    if is_secret and not str(value).startswith(("env:", "file:")):
        message = f"{key} of {shown(endpoint.id)} is written in clear"
        reader.problems.add("secret-in-clear", message, place, "write env:NAME or file:/path; change it")
    elif setting is None:
        hint = reader.problems.suggest(key, known) or f"{endpoint.driver} reads: {', '.join(sorted(known))}"
        reader.problems.add("setting-unknown", f"{endpoint.driver} has no setting {shown(key)}", place, hint)
    elif problem := setting.problem(endpoint.settings[key]):
        message = f"{key} of {shown(endpoint.id)} {problem}"
        reader.problems.add("setting-wrong", message, place, setting.meaning)


def _place(reader: Reader, endpoint: Endpoint, part: str = "") -> Place:
    """Where a part of an endpoint is written, or the endpoint itself."""
    path = f"endpoints/{endpoint.id}"
    row = reader.places.get(f"{path}/{part}") or reader.places.get(path)
    return Place(*row) if row is not None else Place("")
