"""Importers: turn existing data (a catalogue, manifests, a host list) into an estate."""

from evac.estate.importers.imported import ImportResult, Live, Options, SourceError, Unknown
from evac.estate.importers.recipe import RecipeSource
from evac.estate.importers.running import KINDS, import_estate, import_live, import_recipe

__all__ = [
    "KINDS",
    "ImportResult",
    "Live",
    "Options",
    "RecipeSource",
    "SourceError",
    "Unknown",
    "import_estate",
    "import_live",
    "import_recipe",
]
