"""The shape of a bundle's manifest: checked once, whole, before anybody reads a value of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from evac.estate.codecs.bundle import MANIFEST, Bundle, BundleDamaged
from evac.model.generation import GENERATION_MOST

MOST: Final = 2**53
ROWS_MOST: Final = 200_000

SHAPE: Final[Mapping[str, Any]] = {
    "made_at_ms": int,
    "evac": str,
    "estate_file": str,
    "policy": str,
    "estate": {"name": str, "digest": str},
    "generation": {"number": int, "opener": str},
    "plans": [
        {"lost": [str], "kind": str, "digest": str, "from": str, "at_ms": int, "part": str, "runbook": str}
    ],
    "journals": [{"stream": str, "part": str, "segments": int, "records": int, "hash": str, "token": int}],
    "epochs": [{"store": str, "epoch": int, "holder": str}],
    "open_runs": [str],
    "wheels": [str],
    "left_out": [{"what": str, "why": str}],
    "references": [{"reference": str, "for": [str], "sealed": bool}],
}
SEALED: Final[Mapping[str, Any]] = {
    "name": str,
    "needed": int,
    "people": int,
    "part": str,
    "files": [str],
}


def manifest_of(bundle: Bundle) -> Mapping[str, Any]:
    """The manifest, every value of which is of its kind: whole numbers from 0 on, printable texts, and parts
    that are in the file. Raises BundleDamaged with the place of what is not.
    """
    values = bundle.values
    for key, shape in SHAPE.items():
        _check(values.get(key), shape, key)
    if values.get("sealed") is not None:
        _check(values["sealed"], SEALED, "sealed")
    if values["generation"]["number"] >= GENERATION_MOST:
        raise _wrong("generation")
    named = [row["part"] for key in ("plans", "journals") for row in values[key]]
    named += [values["policy"]] if values["policy"] else []
    named += [f"estate/{values['estate_file']}"] if values["estate_file"] else []
    named += [values["sealed"]["part"]] if values["sealed"] else []
    for name in named:
        if name not in bundle.parts:
            raise BundleDamaged(f"{name} is named in the manifest, and is not in the bundle", name)
    return values


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            raise _wrong(where)
        for key, inner in shape.items():
            _check(value.get(key), inner, f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or len(value) > ROWS_MOST:
            raise _wrong(where)
        for row in value:
            _check(row, shape[0], where)
    elif type(value) is not shape or not _is_plain(value):
        raise _wrong(where)


def _is_plain(value: Any) -> bool:
    """Whether it can be shown and counted with."""
    return value.isprintable() if isinstance(value, str) else 0 <= value < MOST


def _wrong(where: str) -> BundleDamaged:
    return BundleDamaged(f"what the manifest says under {where} is not of its kind", MANIFEST)
