"""Every answer that ends by itself has its form, however its tokens are chosen and computed; the rest is refused first."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from smolorad.domain import Device, Dtype, FinishReason, GenerateSpec, Precision
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.errors import InvalidRequest
from tests.forms.asking import Form, Said, ask, ask_together, forms, guesses, nothing, request, right, valid_forms
from tests.forms.corpus import EXPRESSIONS, SCHEMAS, VALID
from tests.unit.engine.kit import begin, finish, load, make_adapter

SAMPLE = 6  # one of so many forms is asked for in the usual run
LEAST = 0.8  # of the answers end by themselves


class Tally:
    """What came of the answers; each is checked when it is added."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, form: Form, said: Said, how: str) -> None:
        self.counts["asked"] += 1
        if said.reason is FinishReason.STOP:
            self.counts["stop"] += 1
            assert form.fits(said.text), f"{form.name}, {how}: {said.text!r}"

    def check(self, asked: int) -> None:
        print(dict(self.counts))
        assert self.counts["asked"] == asked
        assert self.counts["stop"] >= LEAST * asked, self.counts


def test_the_corpus_is_as_large_as_it_claims() -> None:
    assert len(SCHEMAS) >= 200
    assert len(EXPRESSIONS) >= 50
    assert sum(expected == VALID for _, expected in SCHEMAS.values()) >= 200
    assert sum(expected == VALID for expected in EXPRESSIONS.values()) >= 50


def test_what_cannot_be_guaranteed_is_refused_before_the_first_token(base: BaseModel) -> None:
    accepted, refusals = set(), {}
    for form in forms():
        try:
            base.grammars.get(form.format)
            accepted.add(form.name)
        except InvalidRequest as error:
            refusals[form.name] = (form, error)
    assert accepted == {form.name for form in valid_forms()}
    assert len(refusals) > 70
    for form, error in refusals.values():
        assert error.violations[0].field == f"response_format.{'regex' if form.format.regex else 'json_schema'}"
        assert "\n" not in error.message
        assert len(error.message) < 500


def _asked_in_each_way(
    base: BaseModel, adapter: Adapter | None, form: Form, spec: GenerateSpec, patch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Said]]:
    """Without guesses, with right ones, and with wrong ones among them: the answer is the same."""
    prompt = len(base.tokenizer(spec.prompt).input_ids)
    with guesses(patch, nothing):
        plain = ask(base, spec, adapter)
    yield "plain", plain
    for how, wrong_each in (("right guesses", 0), ("some wrong guesses", 3)):
        with guesses(patch, right(prompt, plain.token_ids, wrong_each=wrong_each)):
            said = ask(base, spec, adapter)
        assert said == plain, f"{form.name}, {how}"
        yield how, said


def _ask_all(
    base: BaseModel, adapter: Adapter | None, asked: Sequence[Form], seeds: Sequence[int], patch: pytest.MonkeyPatch
) -> tuple[Tally, int]:
    tally, expected = Tally(), 0
    for form in asked:
        for seed in seeds:
            spec = request(base, form, greedy=seed == 0, seed=seed)
            for how, said in _asked_in_each_way(base, adapter, form, spec, patch):
                tally.add(form, said, f"{how}, seed {seed}")
            expected += 3
    return tally, expected


def _ask_batches(base: BaseModel, adapter: Adapter | None, asked: Sequence[Form], seeds: Sequence[int]) -> tuple[Tally, int]:
    tally, specs = Tally(), [(form, request(base, form, greedy=seed == 0, seed=seed)) for form in asked for seed in seeds]
    for at in range(0, len(specs), 6):
        batch = specs[at : at + 6]
        for (form, _), said in zip(batch, ask_together(base, [spec for _, spec in batch], adapter), strict=True):
            tally.add(form, said, "in company")
    return tally, len(specs)


@pytest.mark.parametrize("tuned", [False, True], ids=["base", "adapter"])
def test_answers_have_their_form(base: BaseModel, adapter: Adapter, tuned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = valid_forms()[tuned::SAMPLE]
    tally, expected = _ask_all(base, adapter if tuned else None, asked, (0, 1), monkeypatch)
    tally.check(expected)
    tally, expected = _ask_batches(base, adapter if tuned else None, asked, (0, 1))
    tally.check(expected)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tuned", [False, True], ids=["base", "adapter"])
def test_all_answers_have_their_form(base: BaseModel, adapter: Adapter, tuned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tally, expected = _ask_all(base, adapter if tuned else None, valid_forms(), (0, 1, 2), monkeypatch)
    tally.check(expected)
    tally, expected = _ask_batches(base, adapter if tuned else None, valid_forms(), (0, 1, 2))
    tally.check(expected)


@pytest.mark.long
@pytest.mark.model
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tuned", [False, True], ids=["base", "adapter"])
def test_the_starter_model_s_answers_have_their_form(
    starter_model: Path, tmp_path: Path, tuned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # int8, by far the fastest of what it may be loaded in; an adapter of noise is asked for a part of the forms.
    starter = load(starter_model, "starter", device=Device.CPU, dtype=Dtype.FLOAT32, precision=Precision.INT8, threads=2)
    adapter = AdapterRegistry(starter).attach("tuned@1", make_adapter(starter_model, tmp_path / "tuned")) if tuned else None
    tally, asked = Tally(), valid_forms()[:: SAMPLE if tuned else 1]
    for at, form in enumerate(asked):
        prompt = f"Answer in the form asked for, and keep it short.\n{form.format.json_schema[:300] or form.name}\n"
        spec = request(starter, form, greedy=at % 2 == 0, seed=at, prompt=prompt, logit_bias={}, max_tokens=300)
        with guesses(monkeypatch, nothing):
            plain = ask(starter, spec, adapter)
        tally.add(form, plain, "plain")
        tokens = len(starter.tokenizer(prompt).input_ids)
        with guesses(monkeypatch, right(tokens, plain.token_ids, wrong_each=5)):
            tally.add(form, ask(starter, spec, adapter), "guesses")
    tally.check(2 * len(asked))


def test_a_form_that_many_ask_for_does_not_wear_out(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a parser share what it remembers; where that is full, an answer goes on with a fresh one."""
    monkeypatch.setattr("smolorad.engine.text.grammar.grammar._LEXER_STATES", 400)
    form = next(form for form in valid_forms() if form.name == "call: file")
    fresh = dataclasses.replace(base, grammars=GrammarCache(base.vocabulary))
    kept = []
    for seed in range(12):
        said = ask(fresh, request(fresh, form, greedy=False, seed=seed, logit_bias={}))
        assert said.reason is FinishReason.LENGTH or form.fits(said.text)
        kept.append(next(iter(fresh.grammars._compiled.values())))
    assert len(set(map(id, kept))) > 1, "the parser was made anew at least once"


def test_an_answer_cancelled_between_guesses_keeps_what_was_computed(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    form = next(form for form in valid_forms() if form.name == "record: deep")
    spec = request(base, form, greedy=True, seed=0)
    with guesses(monkeypatch, nothing):
        plain = ask(base, spec)
    prompt = len(base.tokenizer(spec.prompt).input_ids)
    with guesses(monkeypatch, right(prompt, plain.token_ids)):
        for steps in range(1, 8):
            prefixes = PrefixCache()
            answer = begin(base, spec, prefixes=prefixes)
            for _ in range(steps):
                answer.step()
            text = "" if answer.outcome is not None else answer.cancel()
            assert answer.outcome is not None
            assert text == "" or plain.text.endswith(text) or text in plain.text
            again = begin(base, dataclasses.replace(spec, prompt=spec.prompt + plain.text[:20]), prefixes=prefixes)
            fresh = begin(base, dataclasses.replace(spec, prompt=spec.prompt + plain.text[:20]))
            assert _run(again) == _run(fresh)


def _run(answer: GenerationRequest) -> tuple[str, tuple[int, ...]]:
    text, outcome = finish(answer)
    return text, outcome.token_ids
