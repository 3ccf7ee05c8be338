"""Answers of a given form: whatever the model would say, what is complete parses and is valid."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smolorad.domain import ChatMessage, FinishReason, GenerateSpec, ResponseFormat, Sampling
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.generate.sampler import Sampler, SamplingContext
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.text.detokenizer import ByteDetokenizer
from smolorad.engine.text.grammar import grammar
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.errors import InvalidRequest
from tests.examples import examples
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.engine.kit import begin, finish, fp32_base, llama_like_tokenizer, make_adapter, spec, unigram_tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["glad", "sad", None]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["name", "age", "mood", "tags"],
    "additionalProperties": False,
}
VALIDATOR = jsonschema.Draft202012Validator
TOKENIZERS = (tiny_tokenizer, llama_like_tokenizer, unigram_tokenizer)


def by_schema(schema: Any) -> ResponseFormat:
    return ResponseFormat(json_schema=json.dumps(schema))


class Babbler:
    """Says anything that a form allows: every logit is drawn anew."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.end_ids = frozenset({tokenizer.eos_token_id})
        self.vocabulary = Vocabulary(tokenizer, self.end_ids)
        self.grammars = GrammarCache(self.vocabulary)

    def say(self, form: ResponseFormat, seed: int, *, most: int = 600, **sampling: Any) -> str | None:
        """A complete answer; None where it was not complete after `most` tokens."""
        context = SamplingContext(1, self.end_ids, grammar=self.grammars.get(form))
        sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": seed, **sampling}), context)
        generator, text = np.random.default_rng(seed), ByteDetokenizer(self.vocabulary)
        tokens, pieces = [1], []  # the prompt is one token
        while len(tokens) <= most:
            tokens.append(sampler.choose(np.array(tokens), self._logits(generator)))
            pieces.append(text.push(tokens[-1]))
            if sampler.complete or tokens[-1] in self.end_ids:
                return "".join(pieces) + text.flush()
        return None

    def _logits(self, generator: np.random.Generator) -> NDArray[np.float32]:
        return generator.standard_normal(len(self.tokenizer) + 3, dtype=np.float32) * 3  # a head with rows to spare


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda make: make.__name__)
def babbler(request: pytest.FixtureRequest) -> Babbler:
    """One for each kind of tokenizer."""
    return Babbler(request.param())


def test_what_is_complete_is_valid_by_its_schema(babbler: Babbler) -> None:
    for seed in range(20):
        said = babbler.say(by_schema(PERSON), seed)
        assert said is not None, "each of its parts is bounded, so it comes to an end"
        VALIDATOR(PERSON).validate(json.loads(said))


NAMES = st.text("abc_", min_size=1, max_size=4)
LEAVES = st.one_of(
    st.sampled_from(
        [
            {"type": "null"},
            {"type": "boolean"},
            {"type": "string", "format": "date"},
            {"type": "string", "pattern": "^[a-c]{1,3}$"},
            {"type": ["integer", "null"], "minimum": -3, "maximum": 3},
            {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 60},
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            {"type": "string", "format": "ipv4"},
            {"type": "string", "minLength": 2, "maxLength": 3},
        ]
    ),
    st.tuples(st.integers(-999, 999), st.integers(0, 999)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": sum(pair)}
    ),
    st.integers(0, 6).map(lambda most: {"type": "string", "maxLength": most}),
    st.lists(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
    st.text(max_size=5).map(lambda value: {"const": value}),
)


def _array(items: Any, least: int, more: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + more}


def _object(properties: dict[str, Any], required: list[bool]) -> dict[str, Any]:
    names = [name for name, wanted in zip(properties, required, strict=False) if wanted]
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_array, inner, st.integers(0, 2), st.integers(0, 2)),
        st.builds(_object, st.dictionaries(NAMES, inner, max_size=3), st.lists(st.booleans(), max_size=3)),
        st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several}),
        st.lists(inner, min_size=1, max_size=2).map(lambda several: {"type": "array", "prefixItems": several, "items": False}),
        st.builds(lambda one: {"type": "object", "patternProperties": {"^k[0-9]$": one}, "additionalProperties": False}, inner),
    ),
    max_leaves=5,
)
BYTE_LEVEL = Babbler(tiny_tokenizer())


@settings(max_examples=examples(100))
@given(schema=SCHEMAS | SCHEMAS.map(lambda one: {"$defs": {"it": one}, "$ref": "#/$defs/it"}), seed=st.integers(0, 2**32))
def test_what_is_complete_is_valid_by_any_schema(schema: dict[str, Any], seed: int) -> None:
    said = BYTE_LEVEL.say(by_schema(schema), seed)
    assert said is not None
    VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).validate(json.loads(said))


def _many_properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "boolean"} for n in range(count)}, "additionalProperties": False}


def test_hundreds_of_properties_may_be_left_out() -> None:
    schema = {"anyOf": [_many_properties(count) for count in (300, 400)]}
    said = BYTE_LEVEL.say(by_schema(schema), 1)
    assert said is not None
    VALIDATOR(schema).validate(json.loads(said))


def test_a_form_that_grows_beyond_all_bounds_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "_ITEMS", 100)
    babbler = Babbler(tiny_tokenizer())
    with pytest.raises(
        InvalidRequest, match=r"json_schema: cannot be guaranteed \(it is too complex\); correct or simplify it"
    ):
        babbler.say(by_schema(_many_properties(200)), 1)


def test_a_json_object_may_have_any_shape(babbler: Babbler) -> None:
    said = [babbler.say(ResponseFormat(json_object=True), seed, most=300) for seed in range(10)]
    whole = [json.loads(one) for one in said if one is not None]
    assert whole
    assert all(isinstance(one, dict) for one in whole)


@pytest.mark.parametrize("expression", ["(yes|no), because [a-z]{3,9}\\.", "[0-9]{4}-[0-9]{2}", "a+", "\\{\\}"])
def test_a_regular_expression_is_matched_as_a_whole(babbler: Babbler, expression: str) -> None:
    said = babbler.say(ResponseFormat(regex=expression), 1)
    assert said is not None
    assert re.fullmatch(expression, said)


@pytest.mark.parametrize("make", TOKENIZERS[:2], ids=lambda make: make.__name__)
def test_characters_of_several_tokens_come_whole(make: Callable[[], Any]) -> None:
    said = Babbler(make()).say(ResponseFormat(regex="[é🙂日]{6}"), 1)
    assert said is not None
    assert re.fullmatch("[é🙂日]{6}", said)


def test_settings_that_forbid_what_the_form_needs_give_way(babbler: Babbler) -> None:
    for hostile in (
        {"no_repeat_ngram_size": 1},
        {"min_tokens": 199, "max_tokens": 200},
        {"temperature": 0.0, "no_repeat_ngram_size": 1},
        {"logit_bias": {babbler.tokenizer.convert_tokens_to_ids('"'): -100.0}},
        {"top_h": 0.1, "typical_p": 0.5, "eta_cutoff": 0.5, "epsilon_cutoff": 0.5, "repetition_penalty": 5.0},
    ):
        said = babbler.say(by_schema(PERSON), 3, **hostile)
        assert said is not None, hostile
        VALIDATOR(PERSON).validate(json.loads(said))


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (ResponseFormat(json_schema='{"type": "obj'), "json_schema: is not a JSON Schema (Unterminated string starting at"),
        (ResponseFormat(json_schema="[]"), "json_schema: is not a JSON Schema ("),
        (by_schema({"type": "strng"}), "json_schema: cannot be guaranteed (Invalid type: strng); correct or simplify it"),
        (
            by_schema({"minimum": "x"}),
            "json_schema: cannot be guaranteed (Expected f64 for 'minimum', got \"x\"); correct or simplify it",
        ),
        (
            by_schema({"not": {"type": "null"}}),
            'json_schema: cannot be guaranteed ("not" cannot be checked token by token); correct or simplify it',
        ),
        (
            by_schema({"type": "array", "uniqueItems": True}),
            '("uniqueItems" cannot be checked token by token)',
        ),
        (
            by_schema({"oneOf": [{"type": "string"}, {"maxLength": 3}]}),
            "(options of `oneOf` that may fit at once;",
        ),
        (by_schema({"$ref": "#/nowhere"}), "cannot be guaranteed (Pointer '/nowhere' does not exist)"),
        (by_schema({"$ref": "https://example.org/schema"}), "cannot be guaranteed (Resource 'https://example.org/schema'"),
        (by_schema({"type": "string", "pattern": "("}), "cannot be guaranteed (unclosed group)"),
        (by_schema({"type": "integer", "minimum": 5, "maximum": 3}), "cannot be guaranteed (Unsatisfiable schema: minimum (5)"),
        (
            by_schema({"x-guidance": {"lenient": True, "coerce_one_of": True}, "not": {"type": "null"}}),
            '"not" cannot be checked',
        ),
        (ResponseFormat(regex="("), "response_format.regex: cannot be guaranteed (unclosed group); correct or simplify it"),
        (ResponseFormat(regex="a(?=b)"), "regex: cannot be guaranteed (look-around, including look-ahead"),
        (
            ResponseFormat(regex=r"[^\x00-\U0010ffff]"),
            "regex: cannot be guaranteed (no text fulfils it); correct or simplify it",
        ),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_before_the_first_token(llama: BaseModel, form: ResponseFormat, says: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(says)) as refused:
        begin(llama, GenerateSpec(prompt="A", response_format=form))
    assert "\n" not in refused.value.message
    assert refused.value.violations[0].field.startswith("response_format.")


def test_forms_are_kept_for_the_next_answer_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    grammars = GrammarCache(Vocabulary(tokenizer, [tokenizer.eos_token_id]), limit=2)
    compiled: list[ResponseFormat] = []
    compile_ = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda form: (compiled.append(form), compile_(form))[1])
    one, two, three = (ResponseFormat(regex=text) for text in ("a", "b", "c"))
    for form in (one, two, one, three, one, two):
        grammars.get(form)
    assert compiled == [one, two, three, two]


def test_answers_of_one_form_do_not_meet(llama: BaseModel) -> None:
    form = ResponseFormat(regex="[a-z]{10}|[0-9]{10}")
    requests = [GenerateSpec(prompt="A", sampling=Sampling(seed=seed), response_format=form) for seed in range(6)]
    alone = [finish(begin(llama, request))[0] for request in requests]
    answers = [begin(llama, request) for request in requests]
    texts = ["" for _ in answers]
    while any(answer.outcome is None for answer in answers):
        for at, answer in enumerate(answers):
            if answer.outcome is None:
                texts[at] += answer.step()
    assert texts == alone
    assert len(set(alone)) > 1


def formed(form: ResponseFormat, **sampling: Any) -> GenerateSpec:
    return GenerateSpec(prompt="The quick brown fox", sampling=Sampling(**sampling), response_format=form)


def test_an_answer_ends_as_soon_as_its_form_is_complete(llama: BaseModel) -> None:
    text, outcome = finish(begin(llama, formed(by_schema({"const": [1, {"a": "b"}]}), temperature=0.0)))
    assert text == '[1, {"a": "b"}]'
    assert outcome.finish_reason is FinishReason.STOP
    assert not llama.end_ids & set(outcome.token_ids), "nothing else could come, so the end was not computed"


def test_an_answer_that_is_cut_off_tells_it(llama: BaseModel) -> None:
    text, outcome = finish(begin(llama, formed(by_schema(PERSON), max_tokens=5, seed=1)))
    assert outcome.finish_reason is FinishReason.LENGTH
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_form_that_completes_with_the_last_token_is_complete(llama: BaseModel) -> None:
    whole, outcome = finish(begin(llama, formed(ResponseFormat(regex="abc"), temperature=0.0)))
    again, last = finish(begin(llama, formed(ResponseFormat(regex="abc"), temperature=0.0, max_tokens=len(outcome.token_ids))))
    assert (again, last.finish_reason) == (whole, FinishReason.STOP) == ("abc", FinishReason.STOP)


def test_a_stop_string_ends_it_where_it_comes(llama: BaseModel) -> None:
    form = ResponseFormat(regex="[a-z]{3}: [0-9]{3}")
    text, outcome = finish(begin(llama, formed(form, seed=1, stop=(": ",))))
    assert re.fullmatch("[a-z]{3}", text)
    assert outcome.finish_reason is FinishReason.STOP
    text, _ = finish(begin(llama, formed(form, seed=1, stop=("never",))))
    assert re.fullmatch(form.regex, text), "what was held back for a stop string comes at the end"


def test_the_end_of_text_may_come_where_the_form_is_fulfilled_and_only_there(llama: BaseModel) -> None:
    [end] = llama.end_ids
    wish = Sampling(temperature=0.0, logit_bias={end: 100.0})
    text, outcome = finish(begin(llama, GenerateSpec("A", sampling=wish, response_format=ResponseFormat(regex="[ab]{3,9}"))))
    assert re.fullmatch("[ab]{3}", text)
    assert outcome.token_ids[-1] == end


@pytest.mark.parametrize("make", TOKENIZERS, ids=lambda make: make.__name__)
def test_not_even_a_space_is_lost(make: Callable[[], Any], llama: BaseModel) -> None:
    """Whose decoder drops the leading space, or tidies spaces before a comma, leaves an answer of a form as it is."""
    tokenizer = make()
    tokenizer.clean_up_tokenization_spaces = True
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    parts = {"vocabulary": vocabulary, "grammars": GrammarCache(vocabulary)}
    base = dataclasses.replace(llama, tokenizer=tokenizer, end_ids=frozenset({tokenizer.eos_token_id}), **parts)
    assert finish(begin(base, formed(ResponseFormat(regex=" the fox , don't"), temperature=0.0)))[0] == " the fox , don't"


def test_an_answer_that_is_cut_off_within_a_character_tells_that_too(llama: BaseModel) -> None:
    form = ResponseFormat(regex="[🧪🧫]")
    text, outcome = finish(begin(llama, formed(form, max_tokens=1)))
    assert (text, outcome.finish_reason) == ("�", FinishReason.LENGTH)


def test_an_adapter_s_answer_has_its_form_too(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    adapter = AdapterRegistry(llama).attach("a@1", make_adapter(llama_folder, tmp_path / "a"))
    request = formed(by_schema(PERSON), seed=4, max_tokens=300)
    tuned, outcome = finish(begin(llama, request, adapter))
    VALIDATOR(PERSON).validate(json.loads(tuned))
    assert outcome.finish_reason is FinishReason.STOP
    assert tuned != finish(begin(llama, request))[0]


def test_a_model_that_the_native_step_does_not_know_holds_its_form_too(tmp_path: Path) -> None:
    base = fp32_base(tiny_model(tmp_path, "bamba", vocab_size=450))  # with rows to spare for tokens that do not exist
    assert base.native is None
    text, outcome = finish(begin(base, formed(by_schema(PERSON), seed=2, max_tokens=300)))
    VALIDATOR(PERSON).validate(json.loads(text))
    assert outcome.finish_reason is FinishReason.STOP


def test_without_a_form_nothing_is_compiled(llama_folder: Path) -> None:
    base = fp32_base(llama_folder)
    finish(begin(base, spec("A", max_tokens=3)))
    assert "ll_tokenizer" not in vars(base.vocabulary)


@pytest.mark.long
@pytest.mark.model
def test_the_starter_model_answers_by_a_schema(starter_model: Path) -> None:
    base = fp32_base(starter_model)
    question = (ChatMessage("user", "Describe a person called Ann, who is 33, as JSON."),)
    for temperature, seed in ((0.0, 0), (1.0, 1), (2.0, 2)):
        sampling = Sampling(temperature=temperature, seed=seed, max_tokens=120)
        request = GenerateSpec(messages=question, sampling=sampling, response_format=by_schema(PERSON))
        text, outcome = finish(begin(base, request))
        assert outcome.finish_reason is FinishReason.STOP
        VALIDATOR(PERSON).validate(json.loads(text))
        if temperature == 0:
            assert json.loads(text) | {"mood": None, "tags": []} == {"name": "Ann", "age": 33, "mood": None, "tags": []}
