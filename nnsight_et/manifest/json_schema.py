"""The manifest as a JSON Schema, for editors: what is accepted where, and the sentence that explains it."""

from __future__ import annotations

import json
from typing import Any

from nnsight_et.manifest.schema import Manifest

FILE = "manifest.schema.json"
MODELINE = f"# yaml-language-server: $schema={FILE}"
"""A manifest's first line: editors with a YAML language server read the schema beside the manifest."""
TITLE = "nnsight_et manifest"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a manifest. It knows types and names, not what experiments need of each other."""
    schema = Manifest.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": TITLE}


def schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def is_schema(text: str) -> bool:
    """Whether the text is a schema this or an earlier version has written."""
    try:
        return json.loads(text)["title"] == TITLE
    except (ValueError, KeyError, TypeError):
        return False
