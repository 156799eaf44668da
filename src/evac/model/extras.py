"""The extras of the package: what each provides, and the message when one is missing.

evac without extras audits, plans, checks, simulates, executes and bundles. Everything else that needs
third-party packages names its extra here and says so instead of failing on an import.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from evac.model.errors import InvalidInput

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "redfish": ("httptools",),
        "serve": (
            "fast_sugiyama",
            "fastapi",
            "httptools",
            "joserfc",
            "multipart",
            "prometheus_client",
            "uvicorn",
            "uvloop",
        ),
        "large": ("numba",),
        "postgres": ("asyncpg",),
        "redis": ("redis",),
        "mariadb": ("asyncmy",),
        "octodns": ("octodns",),
        "k8s": ("lightkube",),
        "s3": ("botocore",),
        "notices": ("apprise", "standardwebhooks"),
        "otel": ("opentelemetry",),
        "bundle": ("Crypto",),
        "pdf": ("weasyprint",),
        "credit": ("duckdb",),
        "warehouse": ("sqlglot",),
        "lab": ("evac_lab",),
    }
)
"""Extra -> the top-level modules that it provides."""

_BROUGHT_WITH: Final = MappingProxyType(
    {"starlette": "serve", "llvmlite": "large", "python_multipart": "serve", "httpx": "k8s"}
)
"""Modules that an extra installs indirectly and that evac imports too."""


def install(extra: str) -> str:
    """The command that installs it."""
    return f"pip install 'evac[{extra}]'"


def needs(extra: str, what: str) -> InvalidInput:
    """The error for `what`, a command or a part of evac, without its extra."""
    return InvalidInput(f"extra-{extra}", f"{what} needs extra packages: {install(extra)}")


def extra_of(module: str) -> str:
    """The extra that provides a module; empty if none does."""
    first = module.partition(".")[0]
    for extra, modules in EXTRAS.items():
        if first in modules:
            return extra
    return _BROUGHT_WITH.get(first, "")


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra can be imported."""
    return all(find_spec(module) is not None for module in EXTRAS[extra])
