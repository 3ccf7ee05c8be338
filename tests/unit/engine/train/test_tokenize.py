"""What is learned of a row of each shape: by TRL's rules, and for conversations by span where a template has no marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from smolorad.domain import TrainerSettings
from smolorad.engine.model.model_text import make_model_text
from smolorad.engine.train.tokenize import CHAT, COMPLETION, PREFERENCE, TEXT, UNSCORED, RowTokenizer, Shape, shape_of
from smolorad.errors import BadData
from tests.tiny import tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}{% else %}{{ m.content }}<|im_end|>{{ '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Thoughts are written for the last turn alone, as Qwen 3 does it: no earlier rendering is a beginning of the whole.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Puts a turn of its own before the first, as SmolLM 2 does it: there must be a first.
PREFACED = "{% if messages[0].role != 'system' %}<|im_start|>system\nbe kind<|im_end|>\n{% endif %}" + CHATML
# Refuses a conversation that does not begin with a question, and has no token at the end of a turn.
STRICT = (
    "{% if messages|length == 0 or messages[0].role != 'user' %}{{ raise_exception('a question comes first') }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
TALK = [
    {"role": "user", "content": "the river and the stone"},
    {"role": "assistant", "content": "bread"},
    {"role": "user", "content": "the winter garden bread"},
    {"role": "assistant", "content": "water and light"},
]
SETTINGS = TrainerSettings()


def tokeniser(shape: Shape, tokenizer: Any, settings: TrainerSettings, max_length: int | None) -> RowTokenizer:
    """As a training has it."""
    text = make_model_text(tokenizer, [tokenizer.eos_token_id])
    assert text is not None
    encoder = text.rows(completion_only=settings.completion_only_loss, assistant_only=settings.assistant_only_loss)
    return RowTokenizer(shape, encoder, max_length)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = AutoTokenizer.from_pretrained(tiny_model(tmp_path_factory.mktemp("model")))
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return found


def learned(tokenizer: Any, labels: list[int]) -> list[str]:
    """The stretches that are learned, as text."""
    parts: list[list[int]] = [[]]
    for label in labels:
        if label == UNSCORED:
            parts.append([])
        else:
            parts[-1].append(label)
    return [tokenizer.decode(part) for part in parts if part]


def conversation(tokenizer: Any, template: str, messages: Any = TALK, settings: TrainerSettings = SETTINGS) -> dict[str, Any]:
    tokenizer.chat_template = template
    batch = tokeniser(CHAT, tokenizer, settings, None)({"messages": [messages]})
    row = {name: values[0] for name, values in batch.items()}
    assert row["input_ids"] == tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    return row


@pytest.mark.parametrize("template", [CHATML, MARKED, FORGETFUL], ids=["without marks", "with marks", "forgetful"])
def test_the_assistants_turns_alone_with_the_token_that_ends_them(tokenizer: Any, template: str) -> None:
    parts = learned(tokenizer, conversation(tokenizer, template)["labels"])
    last = "<think></think>water and light<|im_end|>" if template is FORGETFUL else "water and light<|im_end|>"
    assert parts in (["bread<|im_end|>", last], ["bread<|im_end|>", "water and light<|im_end|>"])


def test_marks_and_spans_agree(tokenizer: Any) -> None:
    assert conversation(tokenizer, CHATML)["labels"] == conversation(tokenizer, MARKED)["labels"]


def test_a_template_that_refuses_parts_and_has_no_end_token(tokenizer: Any) -> None:
    talk = [*TALK, {"role": "assistant", "content": "more"}]
    parts = learned(tokenizer, conversation(tokenizer, STRICT, talk)["labels"])
    assert [part.strip() for part in parts] == ["bread", "water and light", "more"]
    tokenizer.chat_template = STRICT
    with pytest.raises(BadData, match="a question comes first"):
        tokeniser(CHAT, tokenizer, SETTINGS, None)({"messages": [TALK[1:]]})


@pytest.mark.parametrize("template", [CHATML, PREFACED])
def test_a_conversation_that_the_assistant_begins(tokenizer: Any, template: str) -> None:
    parts = learned(tokenizer, conversation(tokenizer, template, TALK[1:])["labels"])
    assert parts == ["bread<|im_end|>", "water and light<|im_end|>"]


def test_pairs_whose_prompt_the_template_refuses(tokenizer: Any) -> None:
    tokenizer.chat_template = STRICT
    with pytest.raises(BadData, match="a question comes first"):
        tokeniser(PREFERENCE, tokenizer, SETTINGS, None)({"prompt": [TALK[1:2]], "chosen": [TALK[:1]], "rejected": [TALK[2:]]})


def test_all_turns_if_asked(tokenizer: Any) -> None:
    row = conversation(tokenizer, CHATML, settings=TrainerSettings(assistant_only_loss=False))
    assert row["labels"] == row["input_ids"]


def test_without_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(BadData, match="no chat template"):
        tokeniser(CHAT, tokenizer, SETTINGS, None)({"messages": [TALK]})


def test_completions(tokenizer: Any) -> None:
    batch = {"prompt": ["the river", "", "the stone"], "completion": [" and the sea", "bread", ""]}
    row = tokeniser(COMPLETION, tokenizer, SETTINGS, None)(batch)
    end = tokenizer.eos_token
    assert [learned(tokenizer, labels) for labels in row["labels"]] == [[f" and the sea{end}"], [f"bread{end}"], [end]]
    whole = tokeniser(COMPLETION, tokenizer, TrainerSettings(completion_only_loss=False), None)(batch)
    assert whole["labels"] == whole["input_ids"] == row["input_ids"]
    cut = tokeniser(COMPLETION, tokenizer, SETTINGS, 3)(batch)
    assert [len(ids) for ids in cut["input_ids"]] == [min(len(ids), 3) for ids in row["input_ids"]]


def test_completions_of_messages_learn_the_completion_alone(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    batch = {"prompt": [TALK[:3]], "completion": [TALK[3:]]}
    row = tokeniser(COMPLETION, tokenizer, SETTINGS, None)(batch)
    assert learned(tokenizer, row["labels"][0]) == ["water and light<|im_end|>"]


@pytest.mark.parametrize("as_messages", [False, True])
def test_preferences(tokenizer: Any, as_messages: bool) -> None:
    tokenizer.chat_template = CHATML
    prompt, chosen, rejected = "the river", " and the sea", " bread"
    row: dict[str, list[Any]] = {"prompt": [prompt], "chosen": [chosen], "rejected": [rejected]}
    end = tokenizer.eos_token
    if as_messages:
        row = {"prompt": [TALK[:1]], "chosen": [TALK[1:2]], "rejected": [TALK[3:]]}
        prompt = "<|im_start|>user\nthe river and the stone<|im_end|>\n<|im_start|>assistant\n"
        chosen, rejected, end = "bread", "water and light", "<|im_end|>"
    (found,) = zip(*tokeniser(PREFERENCE, tokenizer, SETTINGS, None)(row).values(), strict=True)
    assert [tokenizer.decode(ids) for ids in found] == [prompt, chosen + end, rejected + end]


def test_the_shape_follows_from_the_columns() -> None:
    assert shape_of(["text", "source"]) is TEXT
    assert shape_of(["completion", "prompt"]) is COMPLETION
    assert shape_of(["messages"]) is CHAT
    assert shape_of(["prompt", "chosen", "rejected"]) is PREFERENCE
    with pytest.raises(BadData, match="columns story"):
        shape_of(["story"])


@pytest.mark.model
def test_the_starter_models_template(starter_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    row = tokeniser(CHAT, tokenizer, SETTINGS, None)({"messages": [TALK]})
    assert learned(tokenizer, row["labels"][0]) == ["bread<|im_end|>", "water and light<|im_end|>"]
