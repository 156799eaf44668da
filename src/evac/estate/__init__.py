"""Files to model and back: loading, checking, writing, importing and the JSON Schema."""

from evac.estate.codecs.estate_writer import write
from evac.estate.coverage import Coverage, MissingFact, coverage
from evac.estate.format.json_schema import schema
from evac.estate.loading import CheckResult, check, load

__all__ = ["CheckResult", "Coverage", "MissingFact", "check", "coverage", "load", "schema", "write"]
