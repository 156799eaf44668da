"""Files to model and back: loading, checking, importing and the JSON Schema."""
