"""What becomes of a schema before llguidance reads it, where the two would not agree."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolorad.domain import ResponseFormat
from smolorad.engine.text.grammar.json_schema import prepare
from smolorad.engine.text.grammar.patterns import NotGuaranteed
from smolorad.errors import InvalidRequest
from tests.examples import examples
from tests.tiny import tiny_tokenizer
from tests.unit.engine.text.grammar.test_grammar import Babbler

BABBLER = Babbler(tiny_tokenizer())
VALIDATOR = jsonschema.Draft202012Validator


def allows(schema: Any, text: str) -> bool:
    """Whether the answer may be this text."""
    grammar = BABBLER.grammars.get(ResponseFormat(json_schema=json.dumps(schema)))
    tokens = BABBLER.tokenizer.encode(text, add_special_tokens=False)
    return grammar._matcher.try_consume_tokens(tokens) == len(tokens) and grammar._matcher.is_accepting()


def test_a_name_has_one_spelling() -> None:
    """`\\u0061` is the name `a` to every parser, and would be another one to llguidance."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    assert allows(schema, '{"a": 1, "b": "x"}')
    assert not allows(schema, '{"a": 1, "\\u0061": "x"}')
    assert not allows({**schema, "properties": {}, "patternProperties": {"^a": {"type": "null"}}}, '{"\\u0061": "x"}')


def test_text_like_special_tokens_is_text() -> None:
    items = [{"type": "boolean"}, {"const": "<|im_end|>"}]
    schema = {"type": "array", "prefixItems": items, "minItems": 2, "items": False}
    said = BABBLER.say(ResponseFormat(json_schema=json.dumps(schema)), 1)
    assert said is not None
    assert json.loads(said)[1] == "<|im_end|>"


NUMBERS = st.one_of(
    st.integers(-30, 30),
    st.integers(-(2**60), 2**60),
    st.floats(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1e-7, 0.1, 0.3, 1 / 3, 1e15, 2**53 + 1, 1 - 2**-53]),
)
BOUNDS = st.fixed_dictionaries(
    {"type": st.sampled_from(["number", "integer"])},
    optional={name: NUMBERS for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")}
    | {"multipleOf": st.sampled_from([1, 2, 5, 7, 0.5, 0.125, 100, 2.0])},
)


@pytest.mark.hypothesis
def test_numbers_are_within_their_bounds_as_validators_read_them() -> None:
    answers = []

    @settings(max_examples=examples(100))
    @given(schema=BOUNDS, seed=st.integers(0, 99))
    def run(schema: dict[str, Any], seed: int) -> None:
        form = ResponseFormat(json_schema=json.dumps(schema))
        try:
            BABBLER.grammars.get(form)
        except InvalidRequest:
            return  # refused first
        said = BABBLER.say(form, seed, most=80)
        if said is not None:
            VALIDATOR(schema).validate(json.loads(said))
            answers.append(said)

    run()
    assert len(set(answers)) > 5


@pytest.mark.parametrize(("written", "kept"), [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")])
def test_a_bound_that_is_no_part_is_put_inside(written: str, kept: str) -> None:
    [bound] = [value for key, value in prepare(json.dumps({written: 1})).root.items() if key == kept]
    assert abs(bound - 1) == pytest.approx(1e-14)
    assert bound != 1


@pytest.mark.parametrize("day", ["2023-02-29", "1900-02-29", "0000-01-01", "2023-04-31", "2023-13-01"])
def test_a_date_is_a_real_one(day: str) -> None:
    assert not allows({"type": "string", "format": "date"}, json.dumps(day))


@pytest.mark.parametrize("day", ["2024-02-29", "2000-02-29", "0004-02-29", "0001-01-01", "9999-12-31", "2100-02-28"])
def test_every_real_date_is_one(day: str) -> None:
    assert allows({"type": "string", "format": "date"}, json.dumps(day))


def test_settings_of_llguidance_in_a_schema_count_for_nothing() -> None:
    assert allows({"x-guidance": {"item_separator": "x"}, "type": "array", "items": {"type": "null"}}, "[null, null]")


@pytest.mark.parametrize("text", ['{"type": "string", "type": "null"}', '{"minimum": NaN}', "3", "", "[" * 100_000])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"twice|not JSON|neither|empty|nested"):
        prepare(text)


def test_levels_are_counted_through_references() -> None:
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(6000)} | {"d6000": True}
    with pytest.raises(NotGuaranteed, match="more than 400 levels"):
        prepare(json.dumps({"$ref": "#/$defs/d0", "$defs": chain}))


def test_a_tag_that_tells_options_apart_is_required() -> None:
    """pydantic gives it a default, so its schema does not: without it both options might fit."""
    options = [{"type": "object", "properties": {"t": {"const": tag, "default": tag}}} for tag in ("a", "b")]
    assert allows({"oneOf": options}, '{"t": "b"}')
    assert not allows({"oneOf": options}, "{}")
    assert not VALIDATOR({"oneOf": options}).is_valid({})


def test_names_that_depend_come_together() -> None:
    schema = {
        "properties": {"a": {"const": 1}, "b": {"const": 2}},
        "additionalProperties": False,
        "dependentRequired": {"a": ["b"]},
    }
    said = {text: allows({"type": "object", **schema}, text) for text in ("{}", '{"a": 1}', '{"b": 2}', '{"a": 1, "b": 2}')}
    assert said == {text: VALIDATOR(schema).is_valid(json.loads(text)) for text in said}


@pytest.mark.parametrize(
    "names", [{"enum": ["ab", "a"]}, {"const": "ab"}, {"pattern": "^ab?$"}, {"minLength": 2, "maxLength": 2}]
)
def test_names_are_those_that_may_be(names: dict[str, Any]) -> None:
    schema = {"type": "object", "propertyNames": names, "additionalProperties": {"type": "null"}}
    for text in ('{"ab": null}', '{"a": null}', '{"abc": null}', '{"ab": 1}', "{}"):
        assert allows(schema, text) == VALIDATOR(schema).is_valid(json.loads(text)), text


def test_numbers_beside_multiples_are_no_infinity() -> None:
    """A validator divides 1e999 by the step before it looks at the other option."""
    schema = {"anyOf": [{"type": "number", "multipleOf": 0.25}, {"minLength": 1}], "type": "number"}
    assert allows(schema, "12.5")
    assert not allows(schema, "1e999")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": ["email"]},
        {"type": 5, "multipleOf": 2},
        {"pattern": True},
        {"type": "object", "propertyNames": {"minLength": "x"}},
        {"oneOf": [{"type": 5}, {"type": "object"}]},
        {"type": "object", "dependentRequired": {"a": "b"}},
        {"type": "object", "properties": {"a": True}, "dependentRequired": {"a": ["a"]}, "allOf": 5},
        {"type": "string", "format": "date", "pattern": "^2", "allOf": 5},
    ],
)
def test_a_value_of_another_kind_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        BABBLER.grammars.get(ResponseFormat(json_schema=json.dumps(schema)))


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": list(range(100_000))},
        {"enum": [f"value number {number} of many" for number in range(10_000)]},
        {"type": "object", "properties": {f"name {number}": {"type": "string"} for number in range(25_000)}},
        {"type": "object", "properties": {f"{number}" + "x" * 100: {} for number in range(3_000)}},
        {"type": "object", "patternProperties": {f"^x{number}_": {} for number in range(300)}},
        {"anyOf": [{"const": number} for number in range(30_000)]},
    ],
    ids=["numbers", "texts", "properties", "long names", "patterns", "options"],
)
def test_what_is_too_large_is_refused_before_it_is_compiled(schema: dict[str, Any]) -> None:
    with pytest.raises(NotGuaranteed, match="more than 50,000 names and constants"):
        prepare(json.dumps(schema))


def test_a_large_schema_that_can_be_followed_is_taken() -> None:
    described = {f"p{number}": {"type": "string", "description": "what it is for " * 100} for number in range(2_000)}
    assert prepare(json.dumps({"type": "object", "properties": described})).root["properties"]
    tagged = [
        {"properties": {"k": {"const": f"c{at}"}, "v": {"type": "integer"}}, "required": ["k", "v"]} for at in range(2_000)
    ]
    assert prepare(json.dumps({"type": "object", "oneOf": tagged})).root["anyOf"]
    assert prepare(json.dumps({"enum": [f"place number {number}" for number in range(8_000)]})).root["enum"]


def test_a_name_that_comes_twice_among_many_is_found_at_once() -> None:
    names = ",".join(f'"p{number}": {{}}' for number in range(100_000))
    with pytest.raises(ValueError, match='has "p7" twice'):
        prepare(f'{{"properties": {{{names}, "p7": {{}}}}}}')


def _object(names: int, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(names)}, **more}


def test_what_may_begin_with_too_many_names_is_refused_before_it_is_built() -> None:
    choice = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [_object(30) for _ in range(400)]}}}
    for schema in (_object(2_501), {"anyOf": [_object(30) for _ in range(200)]}, choice):
        with pytest.raises(NotGuaranteed, match=r"too complex.*make some of them required"):
            prepare(json.dumps(schema))
    for schema in (_object(2_400), _object(3_000, required=["p0"]), {"anyOf": [_object(30) for _ in range(50)]}):
        assert BABBLER.grammars.get(ResponseFormat(json_schema=json.dumps(schema)))


def test_choices_that_lead_to_themselves_are_counted_once() -> None:
    names = {f"a{at}": {"anyOf": [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(60)}
    counted = prepare(json.dumps({"$ref": "#/$defs/a0", "$defs": names | {"a60": _object(1)}})).root
    assert counted["$defs"]["a60"] == _object(1)
    deep = {"anyOf": [{"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}}, {"type": "null"}]}
    itself = {"$ref": "#/$defs/a", "$defs": {"a": deep}}
    assert allows(itself, '{"x": {"x": null}}')
    assert not allows(itself, '{"x": 1}')


def test_several_multiples_and_types_have_a_bound_together() -> None:
    many = {f"p{at}": {"type": "integer", "multipleOf": 99_990 + at} for at in range(8)}
    with pytest.raises(NotGuaranteed, match="several `multipleOf`"):
        prepare(json.dumps({"type": "object", "properties": many}))
    prepare(json.dumps({"type": "object", "properties": dict.fromkeys(many, many["p0"])}))
    kinds = ["string", "number", "integer", "boolean", "null", "array", "object"]
    with pytest.raises(NotGuaranteed, match="more than 50,000 names"):
        prepare(json.dumps({"type": kinds * 3_000}))
    prepare(json.dumps({"type": "object", "properties": {f"p{at}": {"type": kinds} for at in range(1_600)}}))


def test_patterns_that_are_too_much_together_are_called_so() -> None:
    patterns = [{"type": "string", "pattern": f"[a-z]{{{at}}}.*{chr(97 + at)}"} for at in range(5)]
    with pytest.raises(InvalidRequest, match="it is too complex"):
        allows({"allOf": patterns}, "")
