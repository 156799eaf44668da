"""Files to model and back: loading, checking, writing, importing and the JSON Schema."""

from evac.estate.codecs.estate_writer import schema, write
from evac.estate.coverage import Coverage, MissingFact, coverage
from evac.estate.loading import CheckResult, check, load

__all__ = ["CheckResult", "Coverage", "MissingFact", "check", "coverage", "load", "schema", "write"]
