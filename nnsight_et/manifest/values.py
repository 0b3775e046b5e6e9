"""Which values are accepted, in our words rather than pydantic's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nnsight_et.core.errors import accepted_names

NAME = "1 to 64 letters, digits, _ and -, beginning with a letter or a digit"
PATTERNS = {
    r":[A-Za-z_]\w*$": "a module and a class in it, such as my_package.module:Task",
    "^[A-Za-z_]": "a name of letters, digits and _ that does not begin with a digit",
    "cuda": "auto, cpu, cuda, cuda:<number> or balanced",
    r"^[\w.-]+/": "a hub id, such as org/name",
    "[gG][gG][uU][fF]": "a file whose name ends in .gguf",
}
"""What a regular expression accepts, by a part of it; NAME where none is there."""
ACCEPTED = {
    "string_type": "text",
    "string_unicode": r"text without half characters, such as \ud83d alone",
    "string_too_short": "{min_length} or more characters",
    "string_too_long": "at most {max_length} characters",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:.10g}",
    "greater_than_equal": "{ge:.10g} or more",
    "less_than": "less than {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "too_short": "{min_length} or more entries",
    "too_long": "at most {max_length} entries",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "dataclass_type": "a mapping",
}
"""pydantic's kinds of error -> what is accepted."""
OUR_OWN = ("boxes", "positions", "name", "memory", "chat")
"""Kinds of error that our validators raise, whose messages are whole."""


def value_problem(details: Mapping[str, Any]) -> str:
    """What was found and what is accepted, for one of pydantic's errors."""
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    found = f"found {shown_value(given)}"
    if kind in OUR_OWN:
        return details["msg"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "missing; it is required"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return "this key is not known"
    if kind.startswith("union_tag"):
        return f"{found}; accepted: {context.get('expected_tags', 'a mapping that says which kind it is')}"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"{found}; {accepted_names(str(given)[:60], names)}"
    if kind == "string_pattern_mismatch":
        accept = next((text for part, text in PATTERNS.items() if part in context["pattern"]), NAME)
        return f"{found}; accepted: {accept}"
    accept = ACCEPTED[kind].format(**context) if kind in ACCEPTED else details["msg"]
    return f"{found}; accepted: {accept}"


def shown_value(value: Any) -> str:
    """A value from a manifest, in a few words."""
    if isinstance(value, (dict, list, tuple)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    return "nothing" if value is None else ascii(value)[:60]
