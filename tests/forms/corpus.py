"""Schemas and expressions of the shapes that people ask for, each with what is to become of it: VALID, or REFUSED before the
first token. The shapes are those of public suites: tool calls, configurations, catalogues, and each keyword of JSON Schema.
"""

from __future__ import annotations

from typing import Any

VALID, REFUSED = "valid", "refused"
Schema = Any
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


def record(**properties: Schema) -> Schema:
    """A closed object, whose names that end in `_` may be left out."""
    names = {name.removesuffix("_"): schema for name, schema in properties.items()}
    required = [name for name in properties if not name.endswith("_")]
    return {"type": "object", "properties": names, "required": required, "additionalProperties": False}


def call(name: str, **arguments: Schema) -> Schema:
    """A call of a tool."""
    return record(name={"const": name}, arguments=record(**arguments))


def text(most: int = 12, **more: Any) -> Schema:
    return {"type": "string", "maxLength": most, **more}


def whole(least: int, most: int, **more: Any) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, **more}


def some(items: Schema, least: int = 0, most: int = 2) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


NONE, FLAG = {"type": "null"}, {"type": "boolean"}
PRICE = {"type": "number", "minimum": 0, "maximum": 9999}

CALLS = {
    "weather": call("get_weather", city=text(), unit={"enum": ["celsius", "fahrenheit"]}),
    "search": call("search", query=text(20), limit=whole(1, 50), safe_=FLAG),
    "mail": call(
        "send_mail", to=some(text(20, pattern=r"^[a-z]{1,8}@[a-z]{1,6}\.(com|org)$"), 1), subject=text(), body=text(30)
    ),
    "timer": call("set_timer", seconds=whole(1, 86_400), label_=text()),
    "calendar": call(
        "add_event", day={"type": "string", "format": "date"}, at={"type": "string", "format": "time"}, title=text()
    ),
    "lights": call(
        "lights", room={"enum": ["kitchen", "hall", "loft"]}, level=whole(0, 100), colour_=text(7, pattern="^#[0-9a-f]{6}$")
    ),
    "route": call(
        "route", start=text(), end=text(), by={"enum": ["foot", "bike", "car"]}, avoid_=some({"enum": ["toll", "ferry"]})
    ),
    "calculate": call("calculate", op={"enum": ["+", "-", "*", "/"]}, a=whole(-999, 999), b=whole(-999, 999)),
    "sql": call(
        "query", table=text(10, pattern="^[a-z_]+$"), columns=some(text(8, pattern="^[a-z]+$"), 1), limit_=whole(1, 10)
    ),
    "file": call("write_file", path=text(20, pattern="^/([a-z]{1,5}/){0,2}[a-z]{1,5}\\.txt$"), content=text(30), append_=FLAG),
    "none": call("ping"),
    "either call": {"anyOf": [call("open", door=whole(1, 9)), call("close", door=whole(1, 9)), call("ping")]},
    "one call": {"oneOf": [call("open", door=whole(1, 9)), record(error=text())]},
    "a union by a tag": {
        "$defs": {
            "Cat": record(kind={"const": "cat"}, lives=whole(0, 9)),
            "Dog": record(kind={"const": "dog"}, good=FLAG),
            "Fish": record(kind={"const": "fish"}),
        },
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}, {"$ref": "#/$defs/Fish"}],
        "discriminator": {"propertyName": "kind"},
    },
    "several calls": some({"anyOf": [call("left"), call("right"), call("go", steps=whole(1, 20))]}, 1, 3),
    "thought and call": record(thought=text(30), call=call("stop")),
    "optional and null": record(value={"anyOf": [whole(0, 5), NONE]}, note={"type": ["string", "null"], "maxLength": 5}),
    "a default": record(
        mode={"enum": ["fast", "slow"], "default": "fast"}, retries_={"type": "integer", "default": 3, **whole(0, 9)}
    ),
    "strict": {**record(a=whole(0, 9)), "$schema": DRAFT_2020, "title": "Args", "description": "Arguments."},
    "examples": record(city={**text(), "examples": ["Oslo"], "description": "A city."}),
}

CONFIGURATIONS = {
    "workflow": record(
        name=text(),
        on={"enum": ["push", "pull_request"]},
        jobs={
            "type": "object",
            "patternProperties": {"^[a-z]{1,6}$": record(steps=some(record(run=text()), 1))},
            "additionalProperties": False,
            "maxProperties": 2,
        },
    ),
    "container": record(
        apiVersion={"const": "v1"},
        kind={"const": "Pod"},
        metadata=record(name=text(8, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        spec=record(
            containers=some(record(name=text(6), image=text(12), ports_=some(record(containerPort=whole(1, 65_535)))), 1)
        ),
    ),
    "deployment": record(replicas=whole(0, 10), strategy={"enum": ["Recreate", "RollingUpdate"]}, paused_=FLAG),
    "package": record(name=text(10, pattern="^[a-z-]+$"), version=text(pattern=r"^\d{1,2}\.\d{1,2}\.\d{1,2}$"), private_=FLAG),
    "compose": record(services={"type": "object", "additionalProperties": record(image=text()), "maxProperties": 1}),
    "linter": record(
        rules={"type": "object", "additionalProperties": {"enum": ["off", "warn", "error", 0, 1, 2]}, "maxProperties": 2}
    ),
    "editor": record(tabSize=whole(1, 8), wordWrap={"enum": ["on", "off"]}, rulers_=some(whole(40, 200))),
    "server": record(host={"type": "string", "format": "ipv4"}, port=whole(1, 65_535), tls_=record(cert=text(), key=text())),
    "log": record(
        level={"enum": ["debug", "info", "error"]}, file_=text(), rotate_={"type": "string", "pattern": "^(daily|weekly)$"}
    ),
    "labels": {"type": "object", "additionalProperties": text(5), "maxProperties": 2},
    "a size": record(
        memory={"type": "string", "pattern": "^[1-9][0-9]{0,3}(Ki|Mi|Gi)$"}, cpu={"type": "string", "pattern": "^[0-9]{1,4}m$"}
    ),
    "cron": record(schedule={"type": "string", "pattern": r"^(\*|[0-5]?\d) (\*|1?\d|2[0-3]) \* \* [0-7]$"}),
    "matrix": record(os=some({"enum": ["linux", "mac"]}, 1), python=some({"type": "string", "pattern": r"^3\.1[0-9]$"}, 1)),
    "proxy": record(routes=some(record(prefix=text(6, pattern="^/"), to={"type": "string", "format": "ipv4"}), 1)),
    "dependencies": {
        "type": "object",
        "patternProperties": {"^@?[a-z]{1,5}$": {"type": "string", "pattern": r"^[~^]?\d\.\d$"}},
        "additionalProperties": False,
    },
    "open": {
        "type": "object",
        "properties": {"debug": FLAG},
        "additionalProperties": whole(0, 9),
        "maxProperties": 1,
        "required": ["debug"],
    },
    "in a draft of old": {
        "$schema": DRAFT_7,
        "definitions": {"port": whole(1, 9)},
        **record(port={"$ref": "#/definitions/port"}),
    },
    "by components": {
        "components": {"schemas": {"Id": whole(1, 99)}},
        "type": "object",
        "properties": {"id": {"$ref": "#/components/schemas/Id"}},
        "required": ["id"],
        "additionalProperties": False,
    },
}

RECORDS = {
    "product": record(sku={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}, name=text(), price=PRICE, tags=some(text(6))),
    "price in quarters": record(price={"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.25}),
    "order": record(id=whole(1, 10**6), lines=some(record(sku=text(6), count=whole(1, 99)), 1), paid=FLAG),
    "address": record(street=text(), zip={"type": "string", "pattern": r"^\d{5}$"}, country={"enum": ["NO", "SE", "DK"]}),
    "person": record(
        name=text(10, minLength=1),
        born={"type": "string", "format": "date"},
        mail_={"type": "string", "pattern": "^[a-z]{1,8}@[a-z]{1,8}$"},
    ),
    "invoice": record(
        number={"type": "string", "pattern": r"^\d{4}/\d{3}$"}, at={"type": "string", "format": "date-time"}, total=PRICE
    ),
    "stars": record(stars=whole(1, 5), text_=text(20)),
    "sentiment": {"enum": ["positive", "neutral", "negative"]},
    "labels and scores": some(record(label={"enum": ["a", "b"]}, score={"type": "number", "minimum": 0, "maximum": 1}), 1, 2),
    "place": record(
        lat={"type": "number", "minimum": -90, "maximum": 90}, lon={"type": "number", "minimum": -180, "maximum": 180}
    ),
    "book": record(title=text(), isbn={"type": "string", "pattern": r"^97[89]-\d{10}$"}, year=whole(1450, 2100)),
    "flight": record(
        code={"type": "string", "pattern": "^[A-Z]{2}[0-9]{2,4}$"},
        seats=some({"type": "string", "pattern": "^[0-9]{1,2}[A-F]$"}),
    ),
    "recipe": record(title=text(), steps=some(text(15), 1, 3), minutes=whole(1, 600), vegan=FLAG),
    "measurement": record(value={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, unit={"enum": ["m", "s"]}),
    "version": record(id={"type": "string", "format": "uuid"}, parent={"anyOf": [{"type": "string", "format": "uuid"}, NONE]}),
    "a table": some({"type": "array", "prefixItems": [text(4), whole(0, 9)], "items": False, "minItems": 2}, 1, 2),
    "a tree": {
        "$defs": {"node": {**record(value=whole(0, 9), left_={"$ref": "#/$defs/node"}), "title": "Node"}},
        "$ref": "#/$defs/node",
    },
    "a list by links": {"$defs": {"link": {"anyOf": [NONE, record(next={"$ref": "#/$defs/link"})]}}, "$ref": "#/$defs/link"},
    "words of other tongues": {"enum": ["Ærlig", "ödlig", "日本語", "🙂👩‍👩‍👧", "и ещё"]},
    "names of other tongues": record(größe=whole(1, 9), имя=text(5)),
    "names to be escaped": record(**{'a"b': NONE, "c\\d": NONE, "e\nf": NONE, "": NONE}),
    "answer and why": record(why=text(40), answer={"enum": ["A", "B", "C", "D"]}),
    "spans": some(record(start=whole(0, 999), end=whole(0, 999), type={"enum": ["PER", "LOC"]}), 0, 2),
    "triples": some({"type": "array", "items": text(5), "minItems": 3, "maxItems": 3}, 1, 2),
    "deep": record(a=record(b=record(c=record(d=record(e=record(f=record(g=FLAG))))))),
    "wide": record(**{f"flag{number}": FLAG for number in range(20)}),
    "wide and free": record(**{f"flag{number}_": FLAG for number in range(20)}),
}

STRINGS = {
    "any text": {"type": "string"},
    "at most": text(3),
    "at least": {"type": "string", "minLength": 2, "maxLength": 4},
    "exactly": {"type": "string", "minLength": 3, "maxLength": 3},
    "empty": text(0),
    "letters": {"type": "string", "pattern": "^[a-z]{2,6}$"},
    "somewhere": {"type": "string", "pattern": "b", "maxLength": 4},
    "at the beginning": {"type": "string", "pattern": "^ab", "maxLength": 5},
    "at the end": {"type": "string", "pattern": "yz$", "maxLength": 5},
    "of either": {"type": "string", "pattern": "^a|b$", "maxLength": 4},
    "digits of all kinds": {"type": "string", "pattern": r"^\d{3}$"},
    "no digits": {"type": "string", "pattern": r"^\D{3}$"},
    "no word": {"type": "string", "pattern": r"^\W{3}$"},
    "no space": {"type": "string", "pattern": r"^\S{3}$"},
    "spaces": {"type": "string", "pattern": r"^a\sb$"},
    "neither word nor space": {"type": "string", "pattern": r"^[^\w\s]{2}$"},
    "neither sign nor digit": {"type": "string", "pattern": r"^[^\W\d]{2}$"},
    "any character": {"type": "string", "pattern": "^.{3}$"},
    "signs in brackets": {"type": "string", "pattern": "^[+--/.&&~]{3}$"},
    "braces that are no count": {"type": "string", "pattern": "^{[a-c]}$"},
    "slashes": {"type": "string", "pattern": r"^\/[a-z]{1,3}\/$"},
    "quotes": {"type": "string", "pattern": '^"[a-c]\\\\"$'},
    "a named group": {"type": "string", "pattern": "^(?P<year>[0-9]{4})$"},
    "in any case": {"type": "string", "pattern": "^(?i:yes|no)$"},
    "lazily": {"type": "string", "pattern": "^a{1,3}?b*?c$"},
    "many in a row": {"type": "string", "pattern": "^.{0,60000}$", "maxLength": 4},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date and time": {"type": "string", "format": "date-time"},
    "a date of this century": {"type": "string", "format": "date", "pattern": "^20"},
    "duration": {"type": "string", "format": "duration", "maxLength": 8},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "uuid": {"type": "string", "format": "uuid"},
    "host": {"type": "string", "format": "hostname", "maxLength": 8},
    "mail": {"type": "string", "format": "email", "maxLength": 8},
    "uri": {"type": "string", "format": "uri", "maxLength": 10},
    "a pointer": {"type": "string", "format": "json-pointer", "maxLength": 6},
    "a relative pointer": {"type": "string", "format": "relative-json-pointer", "maxLength": 6},
    "an expression": {"type": "string", "format": "regex", "maxLength": 6},
    "bytes": {"type": "string", "format": "byte", "maxLength": 8},
    "a mail of any script": {"type": "string", "format": "idn-email", "maxLength": 8},
    "an address that may be relative": {"type": "string", "format": "uri-reference", "maxLength": 10},
    "a password": {"type": "string", "format": "password", "maxLength": 4},
    "an unknown form with its pattern": {"type": "string", "format": "cuid", "pattern": "^c[a-z0-9]{3}$"},
    "control characters": {"const": "a\u0000b\u001f\u007f"},
    "controls in a pattern": {"type": "string", "pattern": "^a\\x01b$"},
    "no controls": {"type": "string", "pattern": "^[^\\x00-\\x1f]{2}$"},
    "a form of numbers": {"type": "integer", "format": "int32", **whole(0, 9)},
    "unknown form": ({"type": "string", "format": "phone"}, REFUSED),
    "look-ahead": ({"type": "string", "pattern": "^(?=.*[0-9]).{4}$"}, REFUSED),
    "look-behind": ({"type": "string", "pattern": "(?<!a)b"}, REFUSED),
    "back-reference": ({"type": "string", "pattern": r"^(a|b)\1$"}, REFUSED),
    "word boundary": ({"type": "string", "pattern": r"\bword\b"}, REFUSED),
    "possessive": ({"type": "string", "pattern": "^a*+a$"}, REFUSED),
    "no expression": ({"type": "string", "pattern": "["}, REFUSED),
    "repeats without measure": ({"type": "string", "pattern": "^(a|a)*b{1000000}$"}, REFUSED),
    "repeats in repeats": ({"type": "string", "pattern": "^(((a{99}){99}){99}){9}$"}, REFUSED),
    "too short and too long": ({"type": "string", "minLength": 5, "maxLength": 3}, REFUSED),
    "a pattern that no length fits": ({"type": "string", "pattern": "^abc$", "maxLength": 2}, REFUSED),
    "a length that is none": ({"type": "string", "maxLength": -1}, REFUSED),
}

NUMBERS = {
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "positive": whole(1, 9),
    "negative": whole(-9, -1),
    "around zero": whole(-5, 5),
    "above": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
    "fractions": {"type": "number", "minimum": -1.5, "maximum": 2.25},
    "open fractions": {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1},
    "nearly nothing": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e-3},
    "both kinds of bound": {"type": "number", "minimum": 0, "exclusiveMinimum": 1, "maximum": 9, "exclusiveMaximum": 2},
    "sixty-four bits": whole(-(2**63), 2**63 - 1),
    "unsigned bits": whole(0, 2**64 - 1),
    "beyond exact doubles": whole(2**53 + 1, 2**53 + 9),
    "all doubles": {"type": "number", "minimum": -1.7e308, "maximum": 1.7e308},
    "multiples": {"type": "integer", "multipleOf": 7, **whole(0, 99)},
    "multiples of a float": {"type": "integer", "multipleOf": 2.0, **whole(0, 99)},
    "halves": {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 9},
    "seconds of days": {"type": "integer", "multipleOf": 86_400, **whole(0, 10**6)},
    "integer by a fraction": {"type": "integer", "minimum": 0.5, "maximum": 3.5},
    "in draft 4": {"$schema": DRAFT_4, "type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 3},
    "either number": {"anyOf": [whole(0, 3), {"type": "number", "minimum": 0.5, "maximum": 0.75}]},
    "both bounds by parts": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    "two multiples": {"allOf": [{"type": "integer", "multipleOf": 4}, {"multipleOf": 6}], **whole(0, 99)},
    "hundredths": ({"type": "number", "multipleOf": 0.01}, REFUSED),
    "large multiples": ({"type": "integer", "multipleOf": 9_999_991}, REFUSED),
    "two large multiples": ({"allOf": [{"type": "integer", "multipleOf": 99_991}, {"multipleOf": 99_989}]}, REFUSED),
    "multiples of nothing": ({"type": "integer", "multipleOf": 0}, REFUSED),
    "none between": ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, REFUSED),
    "the wrong way round": ({"type": "number", "minimum": 2, "maximum": 1}, REFUSED),
    "far away": ({"type": "integer", "minimum": 10**30}, REFUSED),
    "no bound": ({"type": "integer", "minimum": "3"}, REFUSED),
    "a bound of draft 4": ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, REFUSED),
}

VALUES = {
    "null": NONE,
    "boolean": FLAG,
    "true": {"const": True},
    "one": {"const": 1},
    "one and no fraction": {"const": 1.0},
    "a fraction": {"const": -12.625},
    "a large number": {"const": 2**60},
    "ten to the twenty-second": {"const": 1e22},
    "a tiny number": {"const": 1e-7},
    "a word": {"const": 'don\'t "quote" \\ this / \t'},
    "a list": {"const": [1, [2.5, None], {"a": "b"}]},
    "an object": {"const": {"b": 1, "a": {"c": []}, "ключ": "значение"}},
    "an empty object": {"const": {}},
    "all types": {"enum": [None, True, 0, 1.5, "x", [], {}, "1", "null"]},
    "narrowed": {"type": "string", "enum": ["a", 1, "b", None]},
    "whole ones": {"type": "integer", "enum": [1.0, 2, 2.5]},
    "by length": {"enum": ["a", "bb", "ccc"], "maxLength": 2},
    "two at once": {"const": "b", "enum": ["a", "b"]},
    "many": {"enum": [f"value {number}" for number in range(300)]},
    "titles": {"oneOf": [{"const": 1, "title": "One"}, {"const": 2, "title": "Two"}, {"enum": ["three"]}]},
    "a special token": {"const": "<|im_end|> and <|endoftext|>"},
    "more digits than a double": ({"const": 2**53 + 1}, REFUSED),
    "an integer of a hundred digits": ({"enum": [10**100 + 1]}, REFUSED),
    "a fraction of seventeen digits": ({"const": 0.1 + 0.2}, REFUSED),
    "nothing to choose": ({"enum": []}, REFUSED),
    "of the wrong type": ({"type": "string", "const": 1}, REFUSED),
    "two that exclude each other": ({"allOf": [{"const": 1}, {"const": 2}]}, REFUSED),
    "a book": ({"const": "word " * 10_000}, REFUSED),
}

ARRAYS = {
    "items": some(whole(0, 9)),
    "exactly three": some(FLAG, 3, 3),
    "at least one": {"type": "array", "items": FLAG, "minItems": 1, "maxItems": 4},
    "none": {"type": "array", "maxItems": 0},
    "of false": {"type": "array", "items": False},
    "of lists": some(some(FLAG), 1, 2),
    "a tuple": {"type": "array", "prefixItems": [whole(0, 9), text(3)], "items": False},
    "a whole tuple": {"type": "array", "prefixItems": [whole(0, 9), text(3)], "items": False, "minItems": 2},
    "a tuple and a tail": {"type": "array", "prefixItems": [FLAG], "items": whole(0, 9), "minItems": 1, "maxItems": 3},
    "a tuple of draft 7": {"$schema": DRAFT_7, "type": "array", "items": [FLAG, NONE], "additionalItems": False, "minItems": 2},
    "a tuple of draft 4": {"$schema": DRAFT_4, "type": "array", "items": [FLAG], "additionalItems": whole(0, 9), "maxItems": 2},
    "an impossible item": {"type": "array", "prefixItems": [FLAG, False], "items": False},
    "no need to be unique": {"type": "array", "items": FLAG, "uniqueItems": False, "maxItems": 2},
    "unique by count": {"type": "array", "items": FLAG, "uniqueItems": True, "maxItems": 1},
    "need not hold": {"type": "array", "items": FLAG, "contains": NONE, "minContains": 0, "maxItems": 2},
    "nothing beyond the tuple": {"type": "array", "prefixItems": [FLAG], "unevaluatedItems": False, "minItems": 1},
    "a million at most": {"type": "array", "items": NONE, "maxItems": 1_000_000},
    "unique": ({"type": "array", "items": whole(0, 9), "uniqueItems": True}, REFUSED),
    "that hold": ({"type": "array", "contains": NONE}, REFUSED),
    "more than most": ({"type": "array", "minItems": 3, "maxItems": 2}, REFUSED),
    "needs the impossible": ({"type": "array", "items": False, "minItems": 1}, REFUSED),
    "a list of items": ({"items": [FLAG]}, REFUSED),
}

OBJECTS = {
    "closed": record(a=FLAG),
    "all optional": record(a_=FLAG, b_=NONE, c_=whole(0, 9)),
    "closed and empty": {"type": "object", "additionalProperties": False},
    "of numbers": {"type": "object", "additionalProperties": whole(0, 9), "maxProperties": 1},
    "at least one": {"type": "object", "additionalProperties": FLAG, "minProperties": 1, "maxProperties": 1},
    "exactly one of some": {**record(a_=FLAG, b_=NONE), "minProperties": 1, "maxProperties": 1},
    "one of some at least": {**record(a_=FLAG, b_=NONE), "minProperties": 1},
    "a name by a pattern": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": FLAG},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "two patterns": {
        "type": "object",
        "patternProperties": {"^a": FLAG, "^b": NONE},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "a pattern and a name": {
        "type": "object",
        "properties": {"k1": {"enum": [True, 1]}},
        "patternProperties": {"^k": FLAG},
        "required": ["k1"],
        "additionalProperties": False,
        "maxProperties": 1,
    },
    "a pattern and the rest": {
        "type": "object",
        "patternProperties": {"^k": FLAG},
        "additionalProperties": NONE,
        "maxProperties": 2,
    },
    "a name and the rest": {
        "type": "object",
        "properties": {"a": whole(0, 9)},
        "additionalProperties": text(3),
        "required": ["a"],
        "maxProperties": 2,
    },
    "an unlisted name": {"type": "object", "required": ["z"], "additionalProperties": whole(0, 9), "maxProperties": 1},
    "an impossible name": {
        "type": "object",
        "properties": {"a": False, "b": FLAG},
        "required": ["b"],
        "additionalProperties": False,
    },
    "names of any kind": {
        "type": "object",
        "propertyNames": {"type": "string"},
        "additionalProperties": FLAG,
        "maxProperties": 1,
    },
    "nothing depends": {**record(a=FLAG), "dependentRequired": {"a": []}, "dependentSchemas": {"a": True}},
    "nothing unevaluated": {"type": "object", "properties": {"a": FLAG}, "required": ["a"], "unevaluatedProperties": False},
    "merged": {
        "allOf": [
            {"type": "object", "properties": {"a": FLAG}, "required": ["a"]},
            {"type": "object", "properties": {"b": NONE}, "required": ["b"], "maxProperties": 2},
        ]
    },
    "a pattern against a name": (
        {"type": "object", "properties": {"k1": text(3)}, "patternProperties": {"^k": whole(0, 9)}, "required": ["k1"]},
        REFUSED,
    ),
    "patterns that overlap": ({"type": "object", "patternProperties": {"a": FLAG, "b": NONE}}, REFUSED),
    "three at least": ({"type": "object", "additionalProperties": FLAG, "minProperties": 3}, REFUSED),
    "two of many": ({**record(a_=FLAG, b_=NONE, c_=NONE), "minProperties": 2}, REFUSED),
    "names that depend": {**record(a_=FLAG, b_=FLAG), "dependentRequired": {"a": ["b"]}},
    "schemas that depend": ({**record(a_=FLAG, b_=FLAG), "dependentSchemas": {"a": {"required": ["b"]}}}, REFUSED),
    "names by a form": {"type": "object", "propertyNames": {"maxLength": 3}, "additionalProperties": FLAG},
    "names that depend on names": {**record(a_=FLAG, b_=NONE, c_=FLAG), "dependentRequired": {"a": ["b"], "b": ["c"]}},
    "names that depend, in draft 7": {"$schema": DRAFT_7, **record(a_=FLAG, b_=NONE), "dependencies": {"a": ["b"]}},
    "names of a list": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": whole(0, 9)},
    "names by a pattern of theirs": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-c]{1,2}$"},
        "additionalProperties": FLAG,
        "maxProperties": 2,
    },
    "a required name by a pattern": {
        "type": "object",
        "patternProperties": {"^k": whole(0, 9)},
        "required": ["k1"],
        "additionalProperties": False,
    },
    "needs itself by a pattern": ({"type": "object", "patternProperties": {"^k": {"$ref": "#"}}, "required": ["k1"]}, REFUSED),
    "names that no list has": ({"type": "object", "propertyNames": {"enum": ["a"]}, "required": ["b"]}, REFUSED),
    "names that depend on the unlisted": (
        {"type": "object", "properties": {"a": FLAG}, "dependentRequired": {"a": ["b"]}},
        REFUSED,
    ),
    "needs the impossible": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, REFUSED),
    "unevaluated after a merge": ({"allOf": [{"properties": {"a": FLAG}}], "unevaluatedProperties": False}, REFUSED),
    "thousands that may be left out": (record(**{f"p{number}_": FLAG for number in range(4000)}), REFUSED),
    "controls in a name": ({"type": "object", "properties": {"a\u0001": FLAG}}, REFUSED),
}

LOGIC = {
    "anything": {},
    "true": True,
    "a note": {
        "title": "T",
        "description": "D",
        "$comment": "C",
        "default": 1,
        "deprecated": True,
        "x-note": [1],
        "nullable": True,
    },
    "two types": {"type": ["boolean", "null"]},
    "any of": {"anyOf": [FLAG, NONE, whole(0, 9)]},
    "any of one": {"anyOf": [FLAG]},
    "any of, and more": {"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 3}], "minimum": 0, "maximum": 9},
    "all of": {"allOf": [{"type": "integer"}, {"minimum": 0}, {"maximum": 9}]},
    "one of, by type": {"oneOf": [FLAG, text(3), some(NONE)]},
    "one of, by a constant": {"oneOf": [record(t={"const": "a"}, v=FLAG), record(t={"const": "b"}, v=NONE)]},
    "one of, by a tag with a default": {
        "$defs": {
            "Cat": {"type": "object", "properties": {"kind": {"const": "cat", "default": "cat"}, "lives": whole(0, 9)}},
            "Dog": {"type": "object", "properties": {"kind": {"const": "dog", "default": "dog"}, "name": text(3)}},
        },
        "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}},
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    },
    "one of, by a tag of two values, or nothing": {
        "oneOf": [record(t_={"enum": ["a", "b"]}), record(t_={"const": "c"}, v_=FLAG), NONE],
    },
    "one of, by tags that meet": (
        {"oneOf": [record(t_={"enum": ["a", "b"]}), record(t_={"const": "b"}, v_=FLAG)]},
        REFUSED,
    ),
    "one of, by a tag and no type": (
        {"oneOf": [{"properties": {"t": {"const": "a"}}}, {"properties": {"t": {"const": "b"}}}]},
        REFUSED,
    ),
    "any of, and never": {"anyOf": [{"not": {}}, FLAG]},
    "never": ({"not": {}}, REFUSED),
    "no `if` without `then`": {"if": {"type": "string"}, "type": "boolean"},
    "no `then` without `if`": {"then": {"type": "string"}, "type": "boolean"},
    "not false": {"not": False, "type": "boolean"},
    "a reference": {"$defs": {"it": FLAG}, "$ref": "#/$defs/it"},
    "a reference and more": {"$defs": {"it": {"type": "integer", "minimum": 0}}, "$ref": "#/$defs/it", "maximum": 9},
    "by an anchor": {"$defs": {"it": {"$anchor": "here", "type": "boolean"}}, "$ref": "#here"},
    "by its own address": {"$id": "https://example.org/s", "$defs": {"it": FLAG}, "$ref": "https://example.org/s#/$defs/it"},
    "by an inner address": {
        "$ref": "#/$defs/A",
        "$defs": {"A": {"$id": "https://example.org/a", "$defs": {"B": whole(0, 9)}, "$ref": "#/$defs/B"}, "B": text(3)},
    },
    "signs in a reference": {"$defs": {"a/b~c d": FLAG}, "$ref": "#/$defs/a~1b~0c%20d"},
    "a chain of references": {
        "$defs": {**{f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(50)}, "d50": FLAG},
        "$ref": "#/$defs/d0",
    },
    "recursion": {"type": "object", "properties": {"inner": {"$ref": "#"}}, "additionalProperties": False},
    "recursion in a list": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
    "recursion on the left": ({"anyOf": [{"$ref": "#"}, whole(0, 9)]}, REFUSED),
    "false": (False, REFUSED),
    "not": ({"not": {"type": "string"}}, REFUSED),
    "if and then": ({"if": {"type": "string"}, "then": {"maxLength": 3}}, REFUSED),
    "one of, which may both fit": ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, REFUSED),
    "one of the same": ({"oneOf": [{"const": 1}, {"const": 1.0}]}, REFUSED),
    "nowhere": ({"$ref": "#/$defs/it"}, REFUSED),
    "far": ({"$ref": "https://example.org/other"}, REFUSED),
    "a dynamic reference": ({"$dynamicRef": "#it", "$defs": {"it": {"$dynamicAnchor": "it", "type": "null"}}}, REFUSED),
    "itself and nothing else": ({"$ref": "#"}, REFUSED),
    "each other": ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, REFUSED),
    "requires itself": (record(a={"$ref": "#"}), REFUSED),
    "requires itself in a list": ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, REFUSED),
    "requires itself by turns": (
        {"$ref": "#/$defs/a", "$defs": {"a": record(b={"$ref": "#/$defs/b"}), "b": record(a={"$ref": "#/$defs/a"})}},
        REFUSED,
    ),
    "requires itself either way": ({"anyOf": [record(a={"$ref": "#"}), record(b={"$ref": "#"})]}, REFUSED),
    "a chain without end": (
        {"$defs": {**{f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(6000)}, "d6000": FLAG}, "$ref": "#/$defs/d0"},
        REFUSED,
    ),
    "an unknown type": ({"type": "float"}, REFUSED),
    "no schema": ([FLAG], REFUSED),
    "a number": (3, REFUSED),
}


def _nested(levels: int) -> Schema:
    schema: Schema = FLAG
    for _ in range(levels):
        schema = record(a=schema)
    return schema


SIZES = {
    "thirty levels": _nested(30),
    "a thousand constants": {"enum": [number * 7 for number in range(1000)]},
    "sixty required": record(**{f"p{number}": NONE for number in range(60)}),
    "a long description": record(a={"type": "boolean", "description": "word " * 50_000}),
    "a hundred alternatives": {"anyOf": [record(**{f"only{number}": FLAG}) for number in range(100)]},
    "two hundred levels": (_nested(200), REFUSED),
}

GROUPS: dict[str, dict[str, Any]] = {
    "call": CALLS,
    "configuration": CONFIGURATIONS,
    "record": RECORDS,
    "string": STRINGS,
    "number": NUMBERS,
    "value": VALUES,
    "array": ARRAYS,
    "object": OBJECTS,
    "logic": LOGIC,
    "size": SIZES,
}


def _labelled(entry: Any) -> tuple[Schema, str]:
    return entry if isinstance(entry, tuple) else (entry, VALID)


SCHEMAS = {f"{group}: {name}": _labelled(entry) for group, entries in GROUPS.items() for name, entry in entries.items()}

EXPRESSIONS: dict[str, str] = {
    r"\A[a-c]{2,4}\Z": VALID,
    r"yes|no": VALID,
    r"(A|B|C|D)": VALID,
    r"(ha ){8}end": VALID,
    r"\d{4}-\d{2}-\d{2}": VALID,
    r"^\d{2}:\d{2}$": VALID,
    r"\+?[1-9]\d{6,14}": VALID,
    r"(?:\d{1,3}\.){3}\d{1,3}": VALID,
    r"[\w.+-]{1,9}@[\w-]{1,9}\.[a-z]{2,3}": VALID,
    r"#(?:[0-9a-fA-F]{3}){1,2}": VALID,
    r"[A-Z]{2}\d{2}[A-Z0-9]{11,20}": VALID,
    r"v?\d{1,2}\.\d{1,2}\.\d{1,2}(?:-[0-9A-Za-z.]{1,5})?": VALID,
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}": VALID,
    r"\$\d{1,4}(?:\.\d{2})?": VALID,
    r"-?(?:0|[1-9]\d{0,5})(?:\.\d{1,4})?(?:[eE][+-]?\d{1,2})?": VALID,
    r"\[(?:\d{1,3}(?:, \d{1,3}){0,4})?\]": VALID,
    r'"[^"\\]{0,9}(?:\\.[^"\\]{0,9}){0,2}"': VALID,
    r"<b>[a-z ]{1,12}</b>": VALID,
    r"SELECT [a-z]{1,8} FROM [a-z]{1,8};": VALID,
    r"/api/v\d/[a-z]{1,8}(?:\?q=[a-z]{1,4})?": VALID,
    r"\/api\/v\d": VALID,
    r"[a-z]{1,8}(?:_[a-z]{1,8}){0,3}": VALID,
    r"Thought: .{1,40}\nAction: (?:search|answer)": VALID,
    r"(?:- [a-z ]{1,20}\n){1,3}": VALID,
    r"(?i:yes|no|maybe)": VALID,
    r"a*?b+?": VALID,
    r"a{,3}b": VALID,
    r"{[a-z]}": VALID,
    r"a||b": VALID,
    r"\W{3}": VALID,
    r"\D{3}": VALID,
    r"\S{3}": VALID,
    r"a\sb": VALID,
    r"[^\W\d_]{2,5}": VALID,
    r"[^\w\s]{2}": VALID,
    r"[\s\S]{4}": VALID,
    r"(?s).{3}": VALID,
    r".{5}": VALID,
    r"[+--]{2}": VALID,
    r"[a&&b]{3}": VALID,
    r"[]x]{2}": VALID,
    r"[^]x]{2}": VALID,
    r"[\]\-\\]{3}": VALID,
    r"\x41\u00e9\t": VALID,
    r"[🙂🙃日]{2,3}": VALID,
    r"ÆØÅ(?:æ|ø|å){2}": VALID,
    r"(?P<a>x)(?P<b>y)": VALID,
    r"((a|b)*c|d)*e{2}": VALID,
    r"<\|im_end\|>": VALID,
    r"(?:a(?:b(?:c(?:d)?)?)?)?e": VALID,
    r"[01]{64}": VALID,
    r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)": VALID,
    r"(a|a)*b{1000000}": REFUSED,
    r"(((a{99}){99}){99}){9}": REFUSED,
    r"a(?=b)": REFUSED,
    r"(?<!a)b": REFUSED,
    r"(a)\1": REFUSED,
    r"(?P<a>x)(?P=a)": REFUSED,
    r"\bword\b": REFUSED,
    r"a$b": REFUSED,
    r"a*+a": REFUSED,
    r"(?x)a b": REFUSED,
    r"(": REFUSED,
    r"[z-a]": REFUSED,
    r"[": REFUSED,
    r"*a": REFUSED,
    r"[^\x00-\U0010ffff]": REFUSED,
}
