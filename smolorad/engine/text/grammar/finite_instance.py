"""Whether a JSON Schema has a finite instance: one that requires itself has none."""

from __future__ import annotations

import graphlib
import re
from typing import Any

from smolorad.engine.text.grammar.schema_document import Document, Node


def has_finite_instance(document: Document) -> bool:
    """Finds the sub-schemas that are finite by themselves, then those whose parts are finite, until none is added.

    Ignores keywords that only narrow a finite value.
    """
    finite: set[int] = set()
    waiting = document.nodes
    while True:
        left = [node for node in waiting if not _is_finite(node, finite, document)]
        if len(left) == len(waiting):
            return id(document.root) in finite
        waiting = left


def refers_to_itself(document: Document) -> bool:
    """Whether a schema is, by references alone, a part of itself: no validator finishes with it."""
    same_value: dict[int, list[int]] = {}
    for node in document.nodes:
        parts = [one for keyword in ("allOf", "anyOf", "oneOf") for one in _listed(node, keyword)]
        if isinstance(reference := node.get("$ref"), str) and not document.relocated:
            parts.append(document.target(reference))
        same_value[id(node)] = [id(part) for part in parts if isinstance(part, dict)]
    try:
        graphlib.TopologicalSorter(same_value).prepare()
    except graphlib.CycleError:
        return True
    return False


def _is_finite(node: Node, finite: set[int], document: Document) -> bool:
    if not _is_finite_now(node, finite, document):
        return False
    finite.add(id(node))
    return True


def _is_finite_now(node: Node, finite: set[int], document: Document) -> bool:
    if "const" in node or "enum" in node:
        return True
    if isinstance(reference := node.get("$ref"), str) and not document.relocated:
        target = document.target(reference)
        if target is not None and not _known(target, finite):
            return False
    if not all(_known(one, finite) for one in _listed(node, "allOf")):
        return False
    for keyword in ("anyOf", "oneOf"):
        if (options := _listed(node, keyword)) and not any(_known(one, finite) for one in options):
            return False
    return any(_is_type_finite(node, name, finite) for name in _types(node))


def _is_type_finite(node: Node, name: str, finite: set[int]) -> bool:
    if name == "object":
        return all(_known(_property(node, one), finite) for one in _listed(node, "required") if isinstance(one, str))
    if name == "array":
        least = node.get("minItems", 0)
        places = range(min(least, len(_listed(node, "prefixItems")) + 1)) if isinstance(least, int) else range(0)
        return all(_known(_item(node, place), finite) for place in places)
    return True


def _property(node: Node, name: str) -> Any:
    properties = node.get("properties", {})
    if isinstance(properties, dict) and name in properties:
        return properties[name]
    by_pattern = node.get("patternProperties")
    if isinstance(by_pattern, dict) and (
        fitting := [schema for pattern, schema in by_pattern.items() if _matches(pattern, name)]
    ):
        return fitting[0]  # llguidance refuses patterns that overlap
    return node.get("additionalProperties", True)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # refused by name later
        return False


def _item(node: Node, place: int) -> Any:
    first = _listed(node, "prefixItems") or _listed(node, "items")
    if place < len(first):
        return first[place]
    rest = node.get("items", True)
    return node.get("additionalItems", True) if isinstance(rest, list) else rest


def _known(schema: Any, finite: set[int]) -> bool:
    return id(schema) in finite if isinstance(schema, dict) else schema is not False


def _listed(node: Node, keyword: str) -> list[Any]:
    value = node.get(keyword)
    return value if isinstance(value, list) else []


def _types(node: Node) -> list[Any]:
    given = node.get("type", ["null", "array", "object"])
    return given if isinstance(given, list) else [given]
