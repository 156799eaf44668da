"""What goes with a release: its files, an SBOM, where they come from, and signatures over all of it.

    scripts/release.py make DIST [--key FILE]     sbom.cdx.json, provenance.json, SHA256SUMS and its signature
    scripts/release.py check DIST --public KEY    every file is what was signed; the exit code says so

SBOM: CycloneDX 1.6, from uv.lock. Provenance: in-toto statement with the SLSA predicate 1. Signature: ed25519
over SHA256SUMS, with a key that `evac key FILE` makes; without one nothing is signed, which is said.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SUMS: Final = "SHA256SUMS"
IGNORED: Final = (".gitignore",)
"""Of `uv build`, and nothing that anyone installs."""
MADE: Final = ("sbom.cdx.json", "provenance.json")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def needed(lock: dict[str, Any], name: str = "evac") -> set[str]:
    """Packages that users get: what evac and its extras need, and what these need; nothing of development."""
    packages = {one["name"]: one for one in lock["package"]}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = packages[waiting.pop()]
        rows = list(one.get("dependencies", ()))
        rows += [
            row
            for extra, more in one.get("optional-dependencies", {}).items()
            for row in more
            if extra != "lab"
        ]
        for row in rows:
            if row["name"] not in found and row["name"] in packages and row["name"] != name:
                found.add(row["name"])
                waiting.append(row["name"])
    return found


def sbom(lock_path: Path, version: str) -> dict[str, Any]:
    """The same lock file gives the same bytes."""
    lock = tomllib.loads(lock_path.read_text())
    wanted, components, edges = needed(lock), [], []
    for one in sorted(lock["package"], key=lambda one: (one["name"], one.get("version", ""))):
        if one["name"] not in wanted:
            continue
        ref = f"pkg:pypi/{one['name']}@{one['version']}"
        files = [*one.get("wheels", ()), *([one["sdist"]] if "sdist" in one else [])]
        sources = [
            {
                "type": "distribution",
                "url": file["url"],
                "hashes": [{"alg": "SHA-256", "content": file["hash"].removeprefix("sha256:")}],
            }
            for file in files
        ]
        components.append(
            {
                "type": "library",
                "bom-ref": ref,
                "name": one["name"],
                "version": one["version"],
                "purl": ref,
                "externalReferences": sources,
            }
        )
        edges.append(
            (ref, sorted({row["name"] for row in one.get("dependencies", ()) if row["name"] in wanted}))
        )
    refs = {component["name"]: component["bom-ref"] for component in components}
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"evac {version} {digest(lock_path)}")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": f"pkg:pypi/evac@{version}",
                "name": "evac",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "purl": f"pkg:pypi/evac@{version}",
            }
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": [refs[name] for name in names]} for ref, names in edges],
    }


def provenance(files: list[Path], commit: str, clean: bool) -> dict[str, Any]:
    """From which commit and which locked packages the files were made, and by whom."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": digest(path)}} for path in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:evac:build:1",
                "externalParameters": {"commit": commit, "clean": clean},
                "resolvedDependencies": [
                    {"uri": "git+evac", "digest": {"gitCommit": commit}},
                    {"uri": "file:uv.lock", "digest": {"sha256": digest(ROOT / "uv.lock")}},
                ],
            },
            "runDetails": {"builder": {"id": os.environ.get("EVAC_BUILDER", "urn:evac:builder:local")}},
        },
    }


def make(folder: Path, key: Path | None) -> int:
    from evac import __version__

    files = sorted(path for path in folder.iterdir() if path.suffix in (".whl", ".gz") and path.is_file())
    if not files:
        print(
            f"error: {folder} has no wheel and no sdist\nnext: uv build --out-dir {folder}", file=sys.stderr
        )
        return 2
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    dirty = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    told = (sbom(ROOT / "uv.lock", __version__), provenance(files, commit.stdout.strip(), not dirty.stdout))
    for name, value in zip(MADE, told, strict=True):
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    listed = [*files, *(folder / name for name in MADE)]
    (folder / SUMS).write_text("".join(f"{digest(path)}  {path.name}\n" for path in listed))
    if key is None:
        print("warning: nothing is signed: add --key FILE", file=sys.stderr)
        return 0
    from evac.engine.runs.signatures import read_key

    signature = read_key(key).sign((folder / SUMS).read_bytes())
    (folder / f"{SUMS}.sig").write_text(base64.b64encode(signature).decode() + "\n")
    return 0


def check(folder: Path, public: str) -> int:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        sums, signed = (folder / SUMS).read_bytes(), (folder / f"{SUMS}.sig").read_bytes()
        signature = base64.b64decode(signed)
        if signed != base64.b64encode(signature) + b"\n":
            raise ValueError("written in another way")
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(signature, sums)
    except (OSError, ValueError, InvalidSignature):
        print(f"error: {SUMS} was not signed with this key", file=sys.stderr)
        return 1
    wrong, listed = [], {SUMS, f"{SUMS}.sig", *IGNORED}
    for line in sums.decode().splitlines():
        expected, _, name = line.partition("  ")
        listed.add(name)
        path = folder / Path(name).name
        if not path.is_file() or digest(path) != expected:
            wrong.append(name)
    for name in wrong:
        print(f"error: {name} is not what was signed", file=sys.stderr)
    strange = sorted({path.name for path in folder.iterdir()} - listed)
    for name in strange:
        print(f"error: {name} is in the folder and was not signed", file=sys.stderr)
    return 1 if wrong or strange else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("dist", type=Path)
    making.add_argument("--key", type=Path)
    checking = commands.add_parser("check")
    checking.add_argument("dist", type=Path)
    checking.add_argument("--public", required=True)
    told = parser.parse_args()
    return make(told.dist, told.key) if told.command == "make" else check(told.dist, told.public)


if __name__ == "__main__":
    sys.exit(main())
