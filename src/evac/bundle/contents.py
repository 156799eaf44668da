"""Contents of a bundle, its age, and what is missing, as data and as a one-page sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from evac.bundle.opening import check_journals
from evac.bundle.proof import signed_by
from evac.estate.codecs.bundle import BundleDamaged, manifest_of, open_bundle
from evac.views.sheet import Sheet, SheetPart, local_and_utc
from evac.views.words import duration


def look(path: Path, now_ms: int) -> dict[str, Any]:
    """The manifest, with facts derived from the file itself. Raises BundleDamaged, InvalidInput."""
    with open_bundle(path) as bundle:
        told = manifest_of(bundle)
        made_ms = told["made_at_ms"]
        return {
            "file": path.name,
            "digest": f"sha256:{bundle.digest}",
            "bytes": path.stat().st_size,
            "made_at_ms": made_ms,
            "age_ms": max(0, now_ms - made_ms),
            "evac": told["evac"],
            "signed_by": signed_by(bundle),
            "encrypted": bool(told.get("encrypted")),
            **{name: told.get(name) for name in _SHOWN},
            "parts": [{"name": p.name, "size": p.size, "sha256": p.sha256} for p in bundle.parts.values()],
        }


_SHOWN: Final = (
    "estate",
    "generation",
    "plans",
    "journals",
    "epochs",
    "open_runs",
    "references",
    "sealed",
    "wheels",
    "left_out",
)


def problems_of(path: Path) -> list[tuple[str, str]]:
    """(part, problem) for every changed part and every broken journal.

    Raises BundleDamaged if not even the table of contents can be trusted.
    """
    with open_bundle(path) as bundle:
        manifest_of(bundle)
        found = [(error.part, error.message) for error in bundle.problems()]
        try:
            signed_by(bundle)
        except BundleDamaged as error:
            found.append((error.part, error.message))
        if not found:
            try:
                check_journals(bundle)
            except BundleDamaged as error:
                found.append((error.part, error.message))
        return found


def contents_sheet(told: dict[str, Any]) -> Sheet:
    """The sheet for a terminal or for paper."""
    generation, sealed = told["generation"] or {}, told["sealed"]
    lock = "nothing"
    if sealed:
        lock = (
            f"everything; {sealed['needed']} of {sealed['people']} people are needed to "
            f"open it (shares {sealed['name']})"
        )
    if sealed and not told["encrypted"]:
        secrets = sum(1 for row in told["references"] if row["sealed"])
        lock = (
            f"{secrets} secrets and {len(sealed['files'])} files; "
            f"{sealed['needed']} of {sealed['people']} people are needed to open "
            f"them (shares {sealed['name']})"
        )
    facts = (
        (
            "made",
            f"{local_and_utc(told['made_at_ms'])}, {duration(told['age_ms'])} ago, by evac {told['evac']}",
        ),
        ("digest", told["digest"]),
        ("signed by", told["signed_by"] or "nobody"),
        ("encrypted", "everything except START.txt and evac itself" if told["encrypted"] else "secrets only"),
        ("size", f"{told['bytes']:,} bytes in {len(told['parts'])} parts"),
        ("estate", f"{told['estate']['name']} {told['estate']['digest']}"),
        ("generation", f"{generation.get('number', 0)}; starting from this bundle opens the next one"),
        ("open runs", ", ".join(told["open_runs"] or ()) or "none"),
        ("sealed", lock),
        ("evac itself", f"{len(told['wheels'])} wheels" if told["wheels"] else "not included"),
    )
    plans = [
        (
            " + ".join(row["lost"]),
            row["kind"],
            local_and_utc(row["at_ms"]) if row["at_ms"] else "with the bundle",
            row["digest"][:19],
            row["part"],
        )
        for row in told["plans"]
    ]
    journals = [
        (row["stream"], str(row["segments"]), str(row["records"]), row["hash"][:12])
        for row in told["journals"]
    ]
    parts = (
        SheetPart("", facts=facts),
        SheetPart("Plans", head=("loss", "kind", "made", "digest", "part"), rows=plans),
        SheetPart("Journals", head=("stream", "segments", "records", "head"), rows=journals),
        SheetPart(
            "Data sets",
            head=("store", "epoch", "primary"),
            rows=[(row["store"], str(row["epoch"]), row["holder"] or "-") for row in told["epochs"]],
        ),
        SheetPart(
            "What drivers need",
            head=("reference", "for", "under lock"),
            rows=[
                (row["reference"], "; ".join(row["for"]), "yes" if row["sealed"] else "no")
                for row in told["references"]
            ],
        ),
        SheetPart(
            "What is missing",
            head=("what", "why"),
            rows=[(row["what"], row["why"]) for row in told["left_out"]],
        ),
    )
    shown = tuple(part for part in parts if part.facts or part.rows)
    return Sheet(f"Bundle {told['file']}", "", shown, f"next: evac serve --bundle {told['file']}")
