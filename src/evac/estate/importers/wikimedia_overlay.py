"""The example lines of a first overlay over the Wikimedia sources: what people know and puppet does not."""

from __future__ import annotations

from evac.estate.importers.imported import Imported
from evac.estate.importers.wikimedia_source import WikimediaSource


def example_lines(found: WikimediaSource, imported: Imported) -> list[str]:
    """Lines without the comment sign; every one is valid once that sign is taken away."""
    core = sorted(found.sections)
    pools = sorted(imported.sections.get("pools", {}))
    first = next(iter(sorted(imported.sections.get("services", {}))), "SERVICE")
    lines = [
        "as_of: 2026-11-25  # the day this is true of: facts past their shelf life then count as unknown",
        "",
        "services:",
        f"  {first}: {{tier: 2, people: 1 M, rto: 1 h, demand: {{cpu: 2 cores, memory: 4 GiB}}}}",
        "pools:",
        *(f"  {pool}: {{cpu: 1000 cores, memory: 4 TiB}}" for pool in pools),
        "classes:",
        *(
            f"  {name}: {{cpu: 32 cores, memory: 128 GiB}}"
            for name in sorted(imported.sections.get("classes", {}))
        ),
    ]
    if len(core) > 1:
        primary = found.primary_site or core[0]
        lines += [f"links:                       # the network between {' and '.join(core)}"]
        lines += [f"  - {{ends: [{core[0]}, {core[1]}], bandwidth: 100 Gbit/s}}"]
        lines += [
            "stores:                      # which copy of each database section is the primary, and the lag"
        ]
        others = [site for site in core if site != primary]
        members = ", ".join(
            [f"{{at: {primary}, mode: primary}}", *(f"{{at: {s}, mode: async, lag: 5 s}}" for s in others)]
        )
        lines += [f"  {name}: {{members: [{members}]}}" for name in sorted(_sections(found))]
    return [
        *lines,
        "tools: {}  # which services recovery itself needs, such as {registry: docker-registry}",
    ]


def _sections(found: WikimediaSource) -> set[str]:
    return {name for names in found.sections.values() for name in names}
