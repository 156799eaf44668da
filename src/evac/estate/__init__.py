"""Files to model and back: loading, checking, writing, importing and the JSON Schema.

Each part is imported when first used: opening a run needs a single format and no YAML parser.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evac.estate.codecs.estate_writer import schema, write
    from evac.estate.loading import CheckResult, check, load

__all__ = ["CheckResult", "check", "load", "schema", "write"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    part = "codecs.estate_writer" if name in ("schema", "write") else "loading"
    return getattr(import_module(f"{__name__}.{part}"), name)
