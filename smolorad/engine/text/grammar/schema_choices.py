"""How many names an object may begin with: where there are too many for llguidance, it takes seconds to find out."""

from __future__ import annotations

from typing import Any

from smolorad.engine.text.grammar.patterns import NotGuaranteed
from smolorad.engine.text.grammar.schema_document import Document, Node, types

_MOST = 2_500  # each of them takes four places in its parser, or more, and 10,000 are the limit
_ABOUT = {"title", "description", "$schema", "$id", "$comment", "$defs", "definitions"}


def check_choices(document: Document) -> None:
    """Raises NotGuaranteed where the answer is an object that may begin with any of more names than are followed."""
    if _choices(document.root, document, _MOST) > _MOST:
        raise NotGuaranteed(f"it is too complex: any of more than {_MOST:,} names may come first; make some of them required")


def _choices(node: Any, document: Document, room: int) -> int:
    """The number of names that an object may begin with, counted up to `room`: 0 where schemas are merged.

    Each option takes room too, so that a schema that leads to itself ends.
    """
    if not isinstance(node, dict) or room < 0 or "object" not in types(node):
        return 0
    own = node.keys() - _ABOUT
    if own == {"$ref"}:
        return 1 + _choices(document.target(node["$ref"]), document, room - 1) if isinstance(node["$ref"], str) else 0
    for keyword in ("anyOf", "oneOf"):
        if own <= {keyword, "type"} and isinstance(options := node.get(keyword), list):
            found = 0
            for option in options:
                found += _choices(option, document, room - found - 1)
            return found
    return _begins(node, own)


def _begins(node: Node, own: set[str]) -> int:
    named = node.get("properties")
    return len(named) if isinstance(named, dict) and own <= {"type", "properties", "additionalProperties"} else 0
