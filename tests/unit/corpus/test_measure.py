"""Rows as the model reads them: TRL's tokens, transformers' template, what is scored, and what is wrong with it."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.turns import Turn, Turns
from smolorad.corpus.measure import Measured, Meter, shown_rows
from smolorad.corpus.tokenizer import ModelText
from smolorad.domain import ProblemKind, Shape
from smolorad.engine.model.model_text import make_model_text
from smolorad.engine.train.tokenize import CHAT, UNSCORED, RowTokenizer
from tests.tiny import CHAT_TEMPLATE, END, tiny_tokenizer

ASKED: Turns = (Turn("user", "Who keeps the lamp?"), Turn("assistant", "The keeper."))
LONGER: Turns = (Turn("system", "Be brief."), *ASKED, Turn("user", "And who else?"), Turn("assistant", "Nobody."))
# Puts a turn of its own before the first, and so refuses a conversation without turns.
PREFACED = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHAT_TEMPLATE
# Refuses a conversation that the assistant does not end.
WHOLE = "{% if messages[-1].role != 'assistant' %}{{ raise_exception('no answer') }}{% endif %}" + CHAT_TEMPLATE


def saved(
    folder: Path, *, template: str | None = CHAT_TEMPLATE, eos: str | None = "<|im_end|>", context: int = 64
) -> ModelText:
    """The text side of a model, as transformers saves it."""
    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.chat_template, tokenizer.eos_token = template, eos
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    return ModelText(folder / "tokenizer.json")


@pytest.fixture
def model(tmp_path: Path) -> ModelText:
    return saved(tmp_path)


def own(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def measured(model: ModelText, shape: Shape, *values: Any, max_length: int = 64) -> Measured:
    (found,) = Meter(model, shape, max_length).measure([values])
    return found


def ids(found: Measured) -> list[int]:
    return array("i", found.row.ids).tolist()


def kinds(found: Measured) -> list[ProblemKind]:
    return [kind for kind, _ in found.problems]


# What is read


def test_text_ends_in_the_end_of_text_token_once(model: ModelText, tmp_path: Path) -> None:
    whole = own(tmp_path)("one two<|im_end|>").input_ids
    (parsed,) = Meter(model, Shape.TEXT, 64, parse_special=True).measure([("one two<|im_end|>",)])
    for found in (measured(model, Shape.TEXT, "one two"), parsed):
        assert ids(found) == whole
        assert found.row.scored == found.row.tokens


def test_a_control_token_in_a_text_is_text(model: ModelText, tmp_path: Path) -> None:
    spelled = own(tmp_path)("one two<|im_end|>", split_special_tokens=True).input_ids
    found = measured(model, Shape.TEXT, "one two<|im_end|>")
    assert ids(found) == [*spelled, model.tokenizer.token_to_id("<|im_end|>")]
    assert kinds(found) == [ProblemKind.CONTROL_TOKENS]
    assert "'<|im_end|>', which is read as text; --parse-special" in found.problems[0][1]
    (parsed,) = Meter(model, Shape.TEXT, 64, parse_special=True).measure([("one two<|im_end|>",)])
    assert kinds(parsed) == []


def test_of_prompt_and_completion_the_completion_is_scored(model: ModelText, tmp_path: Path) -> None:
    found = measured(model, Shape.PROMPT_COMPLETION, "Who?", " The keeper.")
    assert ids(found) == own(tmp_path)("Who? The keeper.<|im_end|>").input_ids
    ((begin, end),) = found.row.spans
    assert own(tmp_path).decode(ids(found)[begin:end]) == " The keeper.<|im_end|>"


@pytest.mark.parametrize("turns", [ASKED, LONGER])
def test_of_a_conversation_what_the_assistant_says_is_scored(model: ModelText, tmp_path: Path, turns: Turns) -> None:
    found = measured(model, Shape.CHAT, turns, max_length=500)
    tokenizer = own(tmp_path)
    messages = [{"role": role, "content": content} for role, content, _ in turns]
    assert ids(found) == tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    said = [tokenizer.decode(ids(found)[begin:end]) for begin, end in found.row.spans]
    assert said == [f"{content}<|im_end|>" for role, content, _ in turns if role == "assistant"]


@pytest.mark.parametrize(
    "turns", [ASKED, LONGER, (Turn("assistant", "Hello."), *ASKED), (*ASKED, *ASKED, Turn("assistant", ""))]
)
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, PREFACED, WHOLE])
def test_of_a_conversation_the_same_is_scored_as_in_training(tmp_path: Path, template: str, turns: Turns) -> None:
    found = measured(saved(tmp_path, template=template, context=500), Shape.CHAT, turns, max_length=500)
    messages = [{"role": role, "content": content} for role, content, _ in turns]
    tokenizer = own(tmp_path)
    text = make_model_text(tokenizer, [tokenizer.eos_token_id])
    assert text is not None
    (row,) = zip(*RowTokenizer(CHAT, text.rows(), 500)({"messages": [messages]}).values(), strict=True)
    scored = [UNSCORED] * found.row.tokens
    for begin, end in found.row.spans:
        scored[begin:end] = ids(found)[begin:end]
    assert (ids(found), scored, kinds(found)) == (*row, [])


def test_of_a_preference_the_longer_answer_counts(model: ModelText) -> None:
    short, long = "No.", "No, and this is why."
    whole = measured(model, Shape.PROMPT_COMPLETION, "Q: ", long).row.ids
    assert measured(model, Shape.PREFERENCE, "Q: ", short, long).row.ids == whole
    turns: Turns = (Turn("user", "Q"),)
    chosen, rejected = (Turn("assistant", short),), (Turn("assistant", long),)
    whole = measured(model, Shape.CHAT, (*turns, *rejected)).row
    # Nothing is read behind the answer's end.
    assert measured(model, Shape.PREFERENCE, turns, chosen, rejected).row.ids == whole.cut(whole.spans[0][1]).ids


# What is wrong


def test_an_answer_behind_max_length_is_found(model: ModelText) -> None:
    found = measured(model, Shape.PROMPT_COMPLETION, "word " * 20, "answer", max_length=8)
    assert kinds(found) == [ProblemKind.TARGET_TRUNCATED]
    assert kinds(measured(model, Shape.PROMPT_COMPLETION, "w", "answer " * 10, max_length=8)) == []


def test_a_row_beyond_the_context_is_found(tmp_path: Path) -> None:
    model = saved(tmp_path, context=16)
    assert kinds(measured(model, Shape.TEXT, "word " * 40)) == [ProblemKind.BEYOND_CONTEXT]
    assert kinds(measured(model, Shape.TEXT, "word")) == []


def test_a_long_conversation_is_not_to_be_cut_as_text_is(tmp_path: Path) -> None:
    model = saved(tmp_path, context=8)
    assert "cut it with --chunk-size" in measured(model, Shape.TEXT, "word " * 40).problems[0][1]
    assert measured(model, Shape.CHAT, LONGER).problems[0][1].endswith("context has 8; shorten it")


def test_a_model_without_an_end_is_found(tmp_path: Path) -> None:
    model = saved(tmp_path, eos=None)
    assert kinds(measured(model, Shape.TEXT, "word")) == [ProblemKind.MISSING_EOS]


def test_a_template_that_does_not_end_turns_is_found(tmp_path: Path) -> None:
    model = saved(tmp_path, eos=END)
    assert kinds(measured(model, Shape.CHAT, ASKED)) == [ProblemKind.MISSING_EOS]


@pytest.mark.parametrize("told", [2, [0, 2]])
def test_a_turn_may_end_in_any_token_that_generate_stops_at(tmp_path: Path, told: int | list[int]) -> None:
    saved(tmp_path, eos=END, context=500)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": told}))
    model = ModelText(tmp_path / "tokenizer.json")
    assert model.ends == (END, "<|im_end|>")
    found = measured(model, Shape.CHAT, LONGER, max_length=500)
    assert kinds(found) == []
    said = [own(tmp_path).decode(ids(found)[begin:end]) for begin, end in found.row.spans]
    assert said == ["The keeper.<|im_end|>", "Nobody.<|im_end|>"]
    (shown,) = shown_rows(model, Shape.CHAT, [(ASKED,)])
    assert [shown.text[begin:end] for begin, end in shown.spans] == ["The keeper.<|im_end|>"]


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ raise_exception('Roles must alternate') }}",
        "{% if",
    ],
)
def test_a_template_that_does_not_do_is_found(tmp_path: Path, template: str | None) -> None:
    model = saved(tmp_path, template=template)
    found = measured(model, Shape.CHAT, LONGER)
    assert (kinds(found), found.row.spans) == ([ProblemKind.TEMPLATE], ())


def test_a_turn_that_reads_otherwise_later_is_trained_and_found(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% if loop.last %}LAST {% endif %}{{ m['content'] }}<|im_end|>{% endfor %}"
    found = measured(saved(tmp_path, template=template), Shape.CHAT, LONGER)
    said = [own(tmp_path).decode(ids(found)[begin:end]) for begin, end in found.row.spans]
    assert said == ["The keeper.<|im_end|>", "LAST Nobody.<|im_end|>"]
    assert kinds(found) == [ProblemKind.TEMPLATE]
    assert "turn 3 as 'The keeper.<|im_end|>' later" in found.problems[0][1]
    assert "and as 'LAST The keeper.<|im_end|>' when it is generated" in found.problems[0][1]


# The template


TEMPLATES = [
    CHAT_TEMPLATE,
    "{%- for m in messages %}\n    {%- if m.role == 'assistant' %}\n{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}[{{ m.role }}] {{ m.content | trim }}{% endif %}\n{% endfor %}{{ eos_token }}",
    "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m | tojson }}{{ bos_token }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}{% if tools is none %}!{% endif %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("open_for_answer", [False, True])
def test_a_conversation_is_rendered_as_transformers_renders_it(template: str, open_for_answer: bool) -> None:
    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.chat_template = template
    turns = (*LONGER, Turn("user", "<b>ünï & “quotes”</b>\n"))
    messages = [{"role": role, "content": content} for role, content, _ in turns]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_for_answer)
    special = {"eos_token": tokenizer.eos_token}
    assert ChatTemplate(template, special).render(turns, open_for_answer=open_for_answer) == theirs


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}", "{{ nothing.at.all }}"]
)
def test_what_a_template_may_not_do_it_cannot(template: str) -> None:
    with pytest.raises(TemplateRefuses):
        ChatTemplate(template, {}).render(ASKED)


@pytest.mark.model
def test_the_starter_s_template_is_applied_as_generate_applies_it(starter_model: Path) -> None:
    model = ModelText(starter_model / "tokenizer.json")
    found = measured(model, Shape.CHAT, ASKED)
    messages = [{"role": role, "content": content} for role, content, _ in ASKED]
    assert ids(found) == own(starter_model).apply_chat_template(messages, return_dict=True)["input_ids"]
    assert (model.context, kinds(found)) == (8192, [])


def test_rows_are_shown_with_what_is_masked(model: ModelText) -> None:
    (shown,) = shown_rows(model, Shape.PROMPT_COMPLETION, [("Who?", " He.")])
    assert [shown.text[begin:end] for begin, end in shown.spans] == [" He.<|im_end|>"]
    (shown,) = shown_rows(model, Shape.CHAT, [(ASKED,)])
    assert [shown.text[begin:end] for begin, end in shown.spans] == ["The keeper.<|im_end|>"]
    (shown,) = shown_rows(None, Shape.CHAT, [(ASKED,)])
    assert shown.text == "user: Who keeps the lamp?\nassistant: The keeper."
