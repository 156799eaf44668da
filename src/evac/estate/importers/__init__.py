"""Importers: what exists already - a catalogue, manifests, a host list - made into an estate."""

from evac.estate.importers.imported import ImportResult, Options, SourceError, Unknown
from evac.estate.importers.running import KINDS, import_estate, import_recipe

__all__ = ["KINDS", "ImportResult", "Options", "SourceError", "Unknown", "import_estate", "import_recipe"]
