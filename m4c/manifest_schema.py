"""The JSON schema of a bundle's manifest. Published as m4c/manifest.schema.json, written by

python -c 'from m4c.manifest_schema import page; print(page(), end="")' > m4c/manifest.schema.json
"""

import json

from m4c.bundle import SCHEMA, Manifest
from m4c.record_schema import to_schema


def page() -> str:
    """Return the schema (JSON Schema 2020-12) as text; a manifest of another schema number than this m4c's is invalid."""
    table = to_schema(Manifest, f"urn:m4c:manifest:{SCHEMA}", "manifest.json of a bundle")
    manifest = table["$defs"]["Manifest"]
    manifest["properties"]["schema"]["const"] = SCHEMA
    manifest["required"].append("schema")
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"
