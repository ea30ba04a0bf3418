"""The published schema of what is printed as JSON."""

import json
from importlib.resources import files

import jsonschema


def published() -> jsonschema.Draft202012Validator:
    """Return what tells whether an object is as the schema says."""
    text = (files("m4c.operator_reports") / "report.schema.json").read_text("utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))
