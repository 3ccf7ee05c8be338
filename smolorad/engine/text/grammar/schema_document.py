"""A JSON Schema as a document: its sub-schemas, in the order in which llguidance reads them, and where its references lead."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from smolorad.engine.text.grammar.patterns import NotGuaranteed

Node = dict[str, Any]

# Larger schemas take seconds to prepare, while every other generation waits. Each pair of patterns for names is compared.
_MOST_PARTS = 50_000  # names, options and constants
_TYPE_PARTS = 4  # that each of several types counts for: each is an option of its own
_MOST_TEXT = 200_000  # characters of them
_MOST_PATTERNS = 128
# llguidance recurses into sub-schemas and references; a few thousand levels end the process.
MOST_LEVELS = 400
# The JSON parser of llguidance reads no deeper.
_MOST_NESTED = 120
_ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_LATER = ("unevaluatedItems", "unevaluatedProperties")
_LIST = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_ABOUT = ("title", "description", "examples", "default", "$comment")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


class Document:
    """The parsed text of a schema. Its nodes may be changed in place."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is no schema, and NotGuaranteed for one that is nested too deep."""
        try:
            root = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
        except RecursionError as error:
            raise NotGuaranteed(f"it is nested deeper than {_MOST_NESTED} levels") from error
        if root is False:
            raise NotGuaranteed("no text fulfils it")
        if root is not True and not isinstance(root, dict):
            raise ValueError("it is neither an object nor true")
        if _nested(root) > _MOST_NESTED:
            raise NotGuaranteed(f"it is nested deeper than {_MOST_NESTED} levels")
        _check_size(root)
        self.root: Node = root if isinstance(root, dict) else {}
        draft = self.root.get("$schema", "")
        self.draft: str = draft if isinstance(draft, str) else ""
        self._anchors: dict[str, Any] = {}
        self.nodes = list(self._walk())
        self.relocated = any(node is not self.root and isinstance(node.get("$id"), str) for node in self.nodes)

    @property
    def old(self) -> bool:
        """Whether it names a draft before 2020-12."""
        return any(f"draft-0{number}" in self.draft for number in (3, 4, 6, 7)) or "2019-09" in self.draft

    def target(self, reference: str) -> Any:
        """The schema that a reference leads to; None where it leads out of the document, or nowhere."""
        own = self.root.get("$id")
        if isinstance(own, str) and own and reference.startswith(own.rstrip("#")):
            reference = reference[len(own.rstrip("#")) :]
        pointer = unquote(reference.removeprefix("#"))
        if reference and not reference.startswith("#"):
            return None
        if pointer and not pointer.startswith("/"):
            return self._anchors.get(pointer)
        place: Any = self.root
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
                place = place[int(name)]
            elif isinstance(place, dict) and name in place:
                place = place[name]
            else:
                return None
        return place

    def _walk(self) -> Iterator[Node]:
        """Each sub-schema once, those that only a reference reaches among them."""
        seen: set[int] = set()
        waiting: list[tuple[Any, int]] = [(self.root, 0)]
        while waiting:
            node, level = waiting.pop()
            if not isinstance(node, dict) or id(node) in seen:
                continue
            if level > MOST_LEVELS:
                raise NotGuaranteed(f"its sub-schemas and references lie more than {MOST_LEVELS} levels deep")
            seen.add(id(node))
            if isinstance(anchor := node.get("$anchor"), str):
                self._anchors[anchor] = node
            yield node
            inner = list(children(node))
            if isinstance(reference := node.get("$ref"), str):
                inner.append(self.target(reference))
            waiting += [(child, level + 1) for child in inner]


def children(node: Node) -> Iterator[Any]:
    """The direct sub-schemas of a schema."""
    for keyword in (*_ONE, *_LATER):
        if isinstance(node.get(keyword), dict):
            yield node[keyword]
    for keyword in _LIST:
        if isinstance(node.get(keyword), list):
            yield from node[keyword]
    for keyword in _NAMED:
        if isinstance(node.get(keyword), dict):
            yield from node[keyword].values()


def types(node: Node) -> set[str]:
    """The types that a value may have, as far as `type` says."""
    given = node.get("type")
    if given is None:
        return {"null", "boolean", "number", "integer", "string", "array", "object"}
    return {one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)}


def _unique(pairs: list[tuple[str, Any]]) -> Node:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has {json.dumps(twice)} twice in one object")
    return members


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_size(root: Any) -> None:
    """Descriptions and the like do not count."""
    parts = characters = patterns = 0
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        keyword, value = waiting.pop()
        counted = keyword not in ("", *_ABOUT)
        if isinstance(value, dict):
            waiting += value.items() if keyword not in _NAMED else [("", one) for one in value.values()]
            patterns += len(value) if keyword == "patternProperties" else 0
        elif isinstance(value, list):
            waiting += [(keyword if counted else "", one) for one in value]
        characters += len(value) if counted and isinstance(value, str) else 0
        if isinstance(value, dict | list) and keyword not in _ABOUT:
            parts += len(value) * (_TYPE_PARTS if keyword == "type" and counted else 1)
            characters += sum(map(len, value)) if isinstance(value, dict) else 0
    if parts > _MOST_PARTS or characters > _MOST_TEXT or patterns > _MOST_PATTERNS:
        limits = (
            f"{_MOST_PARTS:,} names and constants, {_MOST_TEXT:,} characters of them, or {_MOST_PATTERNS} patterns for names"
        )
        raise NotGuaranteed(f"it has more than {limits}")


def _nested(value: Any) -> int:
    """How many objects and lists lie one inside the other."""
    level, layer = 0, [value]
    while layer := [inner for one in layer for inner in _inside(one)]:
        level += 1
    return level


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
