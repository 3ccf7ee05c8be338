"""Rewrites keywords that llguidance does not know with those that it knows.

The result may be narrower than the schema: an answer that fits it is valid, and a few valid ones cannot be generated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smolorad.engine.text.grammar.schema_document import Document, Node, types

_MOST_DEPENDENT = 4  # each doubles the ways through an object
_ABOUT = {"title", "description", "type"}
_OWN = ("$anchor", "$id", "$defs", "definitions")


def rewrite(node: Node, document: Document) -> None:
    """Changes a schema in place; what cannot be rewritten stays, and is refused later."""
    if node.get("not") is True or node.get("not") == {}:
        node.clear()
        node["enum"] = []
        return
    _name_names(node, document)
    for keyword in ("dependentRequired", "dependencies"):
        _set_dependent(node, keyword)


def inlined(option: Any, document: Document) -> Any:
    """The target of a reference that has nothing beside it."""
    for _ in range(8):
        if not isinstance(option, dict) or option.keys() - {"title", "description"} != {"$ref"}:
            break
        target = document.target(option["$ref"]) if isinstance(option["$ref"], str) else None
        if not isinstance(target, dict):
            break
        option = {key: value for key, value in target.items() if key not in _OWN}
    return option


def constants(node: Any) -> list[Any]:
    """The values that a schema lists."""
    if not isinstance(node, dict):
        return []
    listed = node["enum"] if isinstance(node.get("enum"), list) else []
    return [*([node["const"]] if "const" in node else []), *listed]


def spelled(value: Any) -> str:
    """One text for one value: 1.0 and 1 are the same."""
    return json.dumps(_plain(value), sort_keys=True)


def tagged(node: Node, options: list[Any], document: Document) -> list[Any] | None:
    """The objects among the options with a property required that has other constants in each of them; None where none has.

    pydantic gives such a tag a default, and so does not require it, though only the tag distinguishes the options.
    """
    objects = []
    for option in options:
        kinds = types(option) & types(node) if isinstance(option, dict) else set()
        if kinds == {"object"}:
            objects.append(option)
        elif isinstance(option, bool) or "object" in kinds:
            return None
    if len(objects) < len(options) - 1 or len(objects) < 2:
        return None
    tags = [name for name in _named(objects[0], "properties") if _tells_apart(name, objects, document)]
    if not tags:
        return None
    return [
        {**option, "required": [*_required(option), tags[0]]}
        if option in objects and tags[0] not in _required(option)
        else option
        for option in options
    ]


def _tells_apart(name: str, objects: list[Node], document: Document) -> bool:
    each = [constants(inlined(_named(option, "properties").get(name), document)) for option in objects]
    texts = [text for values in each for text in set(map(spelled, values))]
    return all(each) and len(set(texts)) == len(texts)


def _name_names(node: Node, document: Document) -> None:
    """`propertyNames` where it lists the names, or says what all of them look like."""
    names = inlined(node.get("propertyNames"), document)
    if not isinstance(names, dict) or node.get("patternProperties") or (types(names) - {"string"} and "type" in names):
        return
    own, rest = _named(node, "properties"), node.get("additionalProperties", True)
    if names.keys() <= _ABOUT | {"enum"} or names.keys() <= _ABOUT | {"const"}:
        listed = [name for name in constants(names) if isinstance(name, str)]
        if not listed or not own.keys() <= set(listed):
            return
        node["properties"] = {name: own.get(name, rest) for name in listed}
    elif names.keys() <= _ABOUT | {"pattern"} and isinstance(names.get("pattern"), str) and not own:
        node["patternProperties"] = {names["pattern"]: rest}
    elif names.keys() <= _ABOUT | {"minLength", "maxLength"} and not own and (lengths := _lengths(names)):
        node["patternProperties"] = {f"^.{lengths}$": rest}
    else:
        return
    node["additionalProperties"] = False
    del node["propertyNames"]


def _set_dependent(node: Node, keyword: str) -> None:
    """Either the one name is not there, or all that it needs are."""
    wanted, own = node.get(keyword), _named(node, "properties")
    if not isinstance(wanted, dict) or not all(isinstance(needed, list) for needed in wanted.values()):
        return
    if len(wanted) > _MOST_DEPENDENT or not all({name, *needed} <= own.keys() for name, needed in wanted.items()):
        return
    also = node.get("allOf", [])
    if not isinstance(also, list):
        return
    ways = [{"anyOf": [{"properties": {name: False}}, {"required": needed}]} for name, needed in wanted.items() if needed]
    node["allOf"] = [*also, *ways]
    del node[keyword]


def _lengths(names: Node) -> str:
    """As a quantifier; empty where they are no lengths."""
    least, most = names.get("minLength", 0), names.get("maxLength")
    if not isinstance(least, int) or not isinstance(most, int | None):
        return ""
    return f"{{{least},{'' if most is None else most}}}"


def _named(node: Node, keyword: str) -> Mapping[str, Any]:
    value = node.get(keyword)
    return value if isinstance(value, dict) else {}


def _required(node: Node) -> list[Any]:
    value = node.get("required")
    return value if isinstance(value, list) else []


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value
