"""`python -m bench real-sets [FOLDER]`: what evac reads of real sets, and what it leaves out and why.

FOLDER is that of the sets, ../shared/data by default. A set that is not there is named and skipped. Exit
status 1 if a set cannot be imported.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from evac.estate.importers import SourceError, import_estate
from evac.model.diagnostic import Diagnostic

FOLDER: Final = Path(__file__).parents[2] / "shared" / "data"
SETS: Final = (
    ("kubernetes", "kubernetes-wild/argo-cd/install.yaml"),
    ("kubernetes", "kubernetes-wild/argo-cd/ha/install.yaml"),
    ("kubernetes", "kubernetes-wild/bank-of-anthos"),
    ("kubernetes", "kubernetes-wild/cloudnative-pg"),
    ("kubernetes", "kubernetes-wild/strimzi"),
    ("kubernetes", "kubernetes-wild/zalando-postgres-operator"),
    ("kubernetes", "online-boutique/kubernetes-manifests.yaml"),
    ("wikimedia", "wikimedia"),
)
_ROW: Final = "{:<11} {:<42} {:>7} {:>8} {:>9} {:>7} {:>8}"


def left_out(found: Sequence[Diagnostic]) -> list[str]:
    """One line for each code: how many places it names, and the first of them."""
    counts = Counter(one.code for one in found)
    first: dict[str, str] = {}
    for one in found:
        first.setdefault(one.code, f"{one.place}: {one.message}")
    return [f"{count:>6,} {code}, such as {first[code]}" for code, count in sorted(counts.items())]


def row(kind: str, source: Path, name: str) -> bool:
    """Import one set and print what came of it; whether it could be imported."""
    with TemporaryDirectory() as target:
        began = time.perf_counter()
        try:
            result = import_estate(kind, source, Path(target) / "estate")
        except SourceError as error:
            print(_ROW.format(kind, name, f"{time.perf_counter() - began:.2f}", "-", "-", "-", "refused"))
            print("\n".join(left_out(error.diagnostics)))
            return False
        took_s = time.perf_counter() - began
    amounts = (f"{one:,}" for one in (result.servers, result.services, result.stores))
    print(_ROW.format(kind, name, f"{took_s:.2f}", *amounts, "partial" if result.partial else "whole"))
    for line in left_out(result.diagnostics):
        print(line)
    return True


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    folder = Path(arguments[0]) if arguments else FOLDER
    print(_ROW.format("reader", "set", "seconds", "servers", "services", "stores", "read"))
    read = []
    for kind, name in SETS:
        if (folder / name).exists():
            read.append(row(kind, folder / name, name))
        else:
            print(f"{kind:<11} {name:<42} skipped: not on this machine, expected in {folder}")
    return 0 if all(read) else 1
