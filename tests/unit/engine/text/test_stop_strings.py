"""Stop strings: found across borders, and never dependent on how the text was cut."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StopStringCriteria

from smolorad.domain import FinishReason
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.text.stop_strings import StopStrings
from smolorad.engine.text.vocabulary import Vocabulary
from tests.examples import examples
from tests.tiny import tiny_tokenizer
from tests.unit.engine.kit import begin, finish, llama_like_tokenizer, spec


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop = StopStrings(stops)
    passed = "".join(stop.push(piece) for piece in pieces)
    return passed + stop.flush(), stop.met


def naive(stops: list[str], text: str) -> tuple[str, bool]:
    """Reads character by character: the first moment at which the text ends with a stop string is the end."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


few = st.text(alphabet="abc", max_size=4)


@given(stops=st.lists(few, max_size=3), pieces=st.lists(few, max_size=12))
def test_equals_reading_character_by_character(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == naive(stops, "".join(pieces))


@given(stops=st.lists(few.filter(bool), min_size=1, max_size=3), pieces=st.lists(few, max_size=12))
def test_what_has_gone_out_never_holds_a_stop_string(stops: list[str], pieces: list[str]) -> None:
    stop = StopStrings(stops)
    out = ""
    for piece in pieces:
        out += stop.push(piece)
        assert not any(s in out for s in stops)


def test_across_borders_and_held_back_text_at_the_end() -> None:
    assert run(["</s>"], ["one <", "/", "s", "> two"]) == ("one ", True)
    assert run(["</s>"], ["one <", "/"]) == ("one </", False)
    assert run(["ab", "b"], ["xab"]) == ("x", True)
    assert run([], ["x", "y"]) == ("xy", False)


def test_text_that_cannot_begin_a_stop_string_is_not_held() -> None:
    stop = StopStrings(["END"])
    assert stop.push("hello") == "hello"
    assert stop.push("E") == ""
    assert stop.push("x") == "Ex"
    assert stop.push("END and more") == ""
    assert stop.push("after") == ""


def test_what_is_not_shown_is_searched_and_never_goes_out() -> None:
    stop = StopStrings(["\n<end>"])
    assert stop.push("a\n") == "a"
    assert stop.push("<begin>", shown=False) == "\n"
    assert stop.push("b\n") == "b"
    assert stop.push("<end>", shown=False) == ""
    assert stop.met
    stop = StopStrings(["<end>x"])
    assert [stop.push("a"), stop.push("<end>", shown=False), stop.push("b")] == ["a", "", "b"]


SPECIAL = ["<|im_start|>", "<|im_end|>"]
STOPS = ["<|im_end|>", "<|im_start|>", "\n<|im_end|>", "<|im_end|><|im_start|>", "im_end", "|>a", "n<|im", "ab", "🙂<|im_end|>"]


def _with_chat_tokens(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


TOKENIZERS = {"byte level": tiny_tokenizer(), "byte fallback": _with_chat_tokens(llama_like_tokenizer())}


class Scripted:
    """In place of the computation: these tokens, `per_step` at a time."""

    native, reused_tokens = None, 0

    def __init__(self, tokens: list[int], per_step: int) -> None:
        self._steps = [tokens[at : at + per_step] for at in range(0, len(tokens), per_step)]

    def step(self, logits: object) -> list[int]:
        return self._steps.pop(0)

    def finish(self) -> None:
        pass


def stopped_by_transformers(tokenizer: Any, tokens: list[int], stops: list[str]) -> int:
    """After how many of the tokens `generate` would stop; one more than there are if it would not."""
    criteria = StopStringCriteria(tokenizer, stops)
    scores = torch.zeros(1, 1)
    return next(
        (count for count in range(1, len(tokens) + 1) if criteria(torch.tensor([tokens[:count]]), scores)[0]), len(tokens) + 1
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=examples(150))
@given(data=st.data())
def test_special_tokens_stop_as_they_do_in_transformers(kind: str, llama: BaseModel, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    words = [*SPECIAL, *(tokenizer.convert_ids_to_tokens(id) for id in tokenizer.encode("a\nb🙂", add_special_tokens=False))]
    choices = tokenizer.convert_tokens_to_ids(words)
    pieces = data.draw(st.lists(st.sampled_from([[id] for id in choices[:2]] + [choices[2:]]), min_size=1, max_size=6))
    tokens = choices[2:] + [
        id for piece in pieces for id in piece
    ]  # a decoder drops the space of what it takes for the beginning
    stops = data.draw(st.lists(st.sampled_from(STOPS), min_size=1, max_size=2))
    count = stopped_by_transformers(tokenizer, tokens, stops)
    text, made = answered(llama, tokenizer, tokens, stops, data.draw(st.integers(1, 5)))
    assert made == min(count, len(tokens))
    whole = tokenizer.decode(tokens[:made], skip_special_tokens=False)
    if count <= len(tokens):
        whole = whole[: min((whole.index(stop) + len(stop), whole.index(stop)) for stop in stops if stop in whole)[1]]
    assert text == without_special(whole).lstrip()


def answered(llama: BaseModel, tokenizer: Any, tokens: list[int], stops: list[str], per_step: int) -> tuple[str, int]:
    """The text of an answer that consists of these tokens, and how many of them it took."""
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    base = dataclasses.replace(llama, tokenizer=tokenizer, vocabulary=vocabulary, end_ids=frozenset({tokenizer.eos_token_id}))
    answer = begin(base, spec("A", max_tokens=len(tokens), stop=tuple(stops)))
    answer._sequence = Scripted(tokens, per_step)  # type: ignore[assignment]
    text, outcome = finish(answer)
    return text, len(outcome.token_ids)


def without_special(text: str) -> str:
    """A special token that a stop string has cut in two is not shown either."""
    for name in SPECIAL:
        text = text.replace(name, "")
    cut = next(
        (text.rindex(name[:n]) for name in SPECIAL for n in range(len(name), 1, -1) if text.endswith(name[:n])), len(text)
    )
    return text[:cut]


def test_a_special_token_that_the_model_writes_stops_it(llama: BaseModel) -> None:
    begins = llama.tokenizer.convert_tokens_to_ids("<|im_start|>")
    text, outcome = finish(begin(llama, spec("Hello", max_tokens=9, logit_bias={begins: 100.0}, stop=("<|im_start|>",))))
    assert (text, outcome.finish_reason, outcome.token_ids) == ("", FinishReason.STOP, (begins,))


def test_a_token_that_ends_the_answer_may_be_part_of_a_stop_string(llama: BaseModel) -> None:
    ends = llama.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    text, outcome = finish(begin(llama, spec("Hello", max_tokens=9, logit_bias={ends: 100.0}, stop=("<|endoftext|>",))))
    assert (text, outcome.finish_reason, outcome.token_ids) == ("", FinishReason.STOP, (ends,))
    words = llama.tokenizer.encode("a\n", add_special_tokens=False)
    assert answered(llama, llama.tokenizer, [*words, ends], ["\n<|endoftext|>"], 5) == ("a", len(words) + 1)
