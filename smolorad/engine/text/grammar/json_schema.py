"""Prepares a JSON Schema for llguidance: where the two disagree, the standard counts, or the schema is refused.

llguidance reads some keywords differently from validators, and refuses others although their value constrains nothing. The
former are rewritten so that both agree, the latter are removed, and what would allow an invalid answer is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from smolorad.engine.text.grammar.finite_instance import has_finite_instance, refers_to_itself
from smolorad.engine.text.grammar.patterns import NotGuaranteed, translate
from smolorad.engine.text.grammar.schema_choices import check_choices
from smolorad.engine.text.grammar.schema_document import Document, Node, types
from smolorad.engine.text.grammar.schema_formats import says_nothing, set_format
from smolorad.engine.text.grammar.schema_rewrite import constants, inlined, rewrite, spelled, tagged

_MOST_CONST = 32_768  # characters; a longer text takes seconds a token
_MOST_MULTIPLE = 100_000  # the parser of the multiples of n has n states
_MOST_MULTIPLES = 200_000  # of all such parsers together
_LARGEST = 10**18  # llguidance counts in 64 bits
_DIGITS = 15  # of a number that its JSON parser surely reads right, before an exponent of 22
# Control characters that have no escape but `\\u`: as they are, and in a translated expression outside of sets.
_RARE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
_RARE_CODE = re.compile(r"\\x\{([0-7bef]|1[0-9a-f]|7f)\}")
_SETS = re.compile(r"\[[^\]]*\]")
_ESCAPES, _ALL_ESCAPES = 'nrbtf\\"', 'nrbtf\\"u'


@dataclass(frozen=True, slots=True)
class Prepared:
    """A schema for llguidance, and the escapes that its strings may have."""

    root: Node
    escapes: str


def prepare(text: str) -> Prepared:
    """Raises ValueError for what is no schema, and NotGuaranteed where some answer that fits it would not be valid."""
    if not text.strip():
        raise ValueError("it is empty")
    document = Document(text)
    if refers_to_itself(document):
        raise NotGuaranteed("a reference that leads back to itself")
    check_choices(document)
    if not has_finite_instance(document):
        raise NotGuaranteed("nothing fulfils it, or nothing finite")
    for node in document.nodes:
        _leave_out_idle(node)
        rewrite(node, document)
    for node in document.nodes:
        _check_draft(node, document.old)
        _check_count(node)
        _set_bounds(node)
        _set_multiple(node)
        _set_strings(node)
    _check_multiples(document.nodes)
    _set_finite(document.nodes)
    for node in document.nodes:
        _set_alternatives(node, document)
    document.root.pop("x-guidance", None)
    return Prepared(document.root, _escapes(document.nodes))


# Keywords with values that constrain nothing.


def _leave_out_idle(node: Node) -> None:
    for keyword in [keyword for keyword, value in node.items() if _idle(node, keyword, value)]:
        del node[keyword]
    if node.get("unevaluatedProperties") is False and not _applies_others(node):
        # Nothing but the keywords beside it evaluates properties.
        node.setdefault("additionalProperties", False)
        del node["unevaluatedProperties"]
    if node.get("unevaluatedItems") is False and not _applies_others(node) and "contains" not in node:
        node.setdefault("items", False)
        del node["unevaluatedItems"]


def _idle(node: Node, keyword: str, value: Any) -> bool:
    match keyword:
        case "uniqueItems" | "not":
            return value is False or (keyword == "uniqueItems" and node.get("maxItems") in (0, 1))
        case "if":
            return _free(value) or not {"then", "else"} & node.keys()
        case "then" | "else":
            return "if" not in node or _free(value)
        case "contains":
            return node.get("minContains") == 0 and "maxContains" not in node
        case "minContains" | "maxContains":
            return "contains" not in node or (keyword == "minContains" and value == 0 and "maxContains" not in node)
        case "unevaluatedItems" | "unevaluatedProperties":
            return _free(value)
        case "propertyNames":
            return _free(value) or bool(value == {"type": "string"})
        case "dependentSchemas" | "dependentRequired" | "dependencies":
            return isinstance(value, dict) and all(_free(one) or one == [] for one in value.values())
        case "allOf":
            return bool(value == [])
        case "format":
            return says_nothing(node, value)
    return False


def _free(value: Any) -> bool:
    return value is True or value == {}


def _applies_others(node: Node) -> bool:
    return bool({"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"} & node.keys())


# What would be read in two ways.


def _check_draft(node: Node, old: bool) -> None:
    if old:
        return
    if isinstance(node.get("items"), list):
        raise NotGuaranteed(
            '`items` as a list is of drafts before 2020-12; write `prefixItems`, or name the draft in "$schema"'
        )
    for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(node.get(keyword), bool):
            raise NotGuaranteed(f'`{keyword}` as true or false is of draft 4; write a number, or name the draft in "$schema"')


def _check_count(node: Node) -> None:
    """Names that are not listed may come twice, and count once."""
    least, required = node.get("minProperties"), node.get("required", [])
    if not isinstance(least, int) or not isinstance(required, list) or "object" not in types(node):
        return
    if least > len(set(map(str, required))) + 1:
        raise NotGuaranteed(f"`minProperties` {least} with fewer `required` names")


# Numbers: validators read them as doubles, llguidance compares digits.


def _set_bounds(node: Node) -> None:
    for inclusive, exclusive, inward in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        limits = []
        if _is_number(node.get(inclusive)):
            limits.append(_within(node[inclusive], inward, inclusive))
        beyond: Any = node.get(inclusive) if node.get(exclusive) is True else node.get(exclusive)
        if _is_number(beyond):
            # Digits without end come as near to a bound as they like, and are read as the bound itself.
            limits.append(_within(beyond, inward, exclusive, off=1))
            del node[exclusive]
        if limits:
            node[inclusive] = max(limits) if inward > 0 else min(limits)


def _within(bound: float, inward: int, keyword: str, off: int = 0) -> float:
    """The bound in as many digits as are surely read right, and `off` of the last of them inside it."""
    if (bound > _LARGEST) if inward > 0 else (bound < -_LARGEST):
        raise NotGuaranteed(f"`{keyword}` {bound} has too many digits")
    exact = Decimal(max(-_LARGEST, min(bound, _LARGEST))) if abs(bound) > _LARGEST else Decimal(repr(bound))
    unit = Decimal(1).scaleb(max((exact.adjusted() if exact else 0) - _DIGITS + 1, -_DIGITS))
    if isinstance(bound, int):
        unit = max(unit, Decimal(1)) if not off or abs(bound) > 10**_DIGITS else unit
    counted = (exact / unit).to_integral_value(ROUND_CEILING if inward > 0 else ROUND_FLOOR) + inward * off
    near = counted * unit
    return int(near) if near == near.to_integral_value() else float(near)


def _set_multiple(node: Node) -> None:
    if "multipleOf" not in node:
        return
    step: Any = node["multipleOf"]
    if not _is_number(step) or step <= 0:
        raise NotGuaranteed(f"`multipleOf` {json.dumps(step)} is not a number above 0")
    if Decimal(repr(step)) != Decimal(step):
        raise NotGuaranteed(f"`multipleOf` {step}: validators round such fractions in their own ways; count in whole units")
    if _digits(step) > _MOST_MULTIPLE:
        raise NotGuaranteed(f"`multipleOf` {step} is above {_MOST_MULTIPLE:,}")
    if step != int(step):
        node.setdefault("minimum", -(2**52))
        node.setdefault("maximum", 2**52)


def _check_multiples(nodes: list[Node]) -> None:
    """Where schemas are merged, a number may have to be a multiple of several."""
    if sum({_digits(node["multipleOf"]) for node in nodes if _is_number(node.get("multipleOf"))}) > _MOST_MULTIPLES:
        raise NotGuaranteed(f"several `multipleOf` that are above {_MOST_MULTIPLES:,} together")
    if any({"allOf", "$ref", "anyOf", "oneOf"} & node.keys() for node in nodes):
        steps = {_digits(node["multipleOf"]) for node in nodes if _is_number(node.get("multipleOf"))}
        if math.lcm(*steps) > _MOST_MULTIPLE:
            raise NotGuaranteed(f"several `multipleOf` whose least common multiple is above {_MOST_MULTIPLE:,}")


def _set_finite(nodes: list[Node]) -> None:
    """1e999 is no multiple of anything: validators divide by a step before they see that another option fits."""
    if not any("multipleOf" in node for node in nodes):
        return
    for node in nodes:
        if "number" in types(node) and not _applies_others(node):
            node.setdefault("minimum", -_LARGEST)
            node.setdefault("maximum", _LARGEST)


def _digits(step: float) -> int:
    """The number without its decimal point."""
    exact = Decimal(repr(step)).normalize()
    return int(exact.scaleb(max(0, -int(exact.as_tuple().exponent))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Strings.


def _set_strings(node: Node) -> None:
    for value in constants(node):
        _check_constant(value)
    if isinstance(node.get("pattern"), str):
        node["pattern"] = translate(node["pattern"])
    if isinstance(named := node.get("patternProperties"), dict):
        node["patternProperties"] = {translate(pattern): schema for pattern, schema in named.items()}
        if len(node["patternProperties"]) < len(named):
            raise NotGuaranteed("two `patternProperties` that mean the same")
    set_format(node)


def _check_constant(value: Any) -> None:
    if len(json.dumps(value, ensure_ascii=False)) > _MOST_CONST:
        raise NotGuaranteed(f"a constant of more than {_MOST_CONST:,} characters")
    for one in _leaves(value):
        if _is_number(one) and not _is_exact(one):
            raise NotGuaranteed(f"the constant {one} has more digits than are kept")


def _is_exact(number: float) -> bool:
    """Whether llguidance, which keeps it as a double, reads and writes it as it is."""
    if isinstance(number, int):
        return abs(number) < 2**63 and int(float(number)) == number
    if not math.isfinite(number):
        return False
    written = Decimal(repr(number)).normalize().as_tuple()
    if len(written.digits) > _DIGITS or abs(int(written.exponent)) > 22:
        return False
    return not number.is_integer() or int(Decimal(repr(number))) == int(number)


def _leaves(value: Any) -> Iterator[Any]:
    """The scalars in it, and the names."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        else:
            yield one


def _escapes(nodes: list[Node]) -> str:
    """With `\\u` a name has two spellings, which llguidance takes for two names; it is allowed where it has to be."""
    texts = [text for node in nodes for value in constants(node) for text in _leaves(value) if isinstance(text, str)]
    texts += [name for node in nodes for name in (*_names(node, "properties"), *_names(node, "required"))]
    patterns = [
        _SETS.sub("", text)
        for node in nodes
        for text in (node.get("pattern"), *_names(node, "patternProperties"))
        if isinstance(text, str)
    ]
    if not any(map(_RARE.search, texts)) and not any(map(_RARE_CODE.search, patterns)):
        return _ESCAPES
    for node in nodes:
        if {"properties", "patternProperties", "required"} & node.keys() and node.get("additionalProperties") is not False:
            raise NotGuaranteed("control characters in a schema whose objects may have names that it does not list")
    return _ALL_ESCAPES


def _names(node: Node, keyword: str) -> list[str]:
    value = node.get(keyword)
    return [name for name in value if isinstance(name, str)] if isinstance(value, dict | list) else []


# Alternatives of which exactly one may fit.


def _set_alternatives(node: Node, document: Document) -> None:
    """llguidance sees that objects differ by a constant only where they stand in the list itself."""
    options = node.get("oneOf")
    if not isinstance(options, list) or document.relocated:
        return
    node["oneOf"] = options = [inlined(option, document) for option in options]
    values = [constants(option) for option in options]
    texts = [spelled(value) for several in values for value in several]
    apart = options if all(values) and len(set(texts)) == len(texts) else tagged(node, options, document)
    if apart is not None and "anyOf" not in node:
        node["anyOf"] = apart
        del node["oneOf"]
