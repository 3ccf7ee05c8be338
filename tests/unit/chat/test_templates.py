"""Which tokens are trained with templates of users' own, in the style of others, and with generation marks of any placement."""

# ruff: noqa: E501 - templates
from __future__ import annotations

import pytest

from smolorad.chat.rows import EncodedRow
from smolorad.chat.turns import Turn, Turns
from smolorad.domain import Shape
from tests.unit.chat.kit import model_text, talk

# Mistral's: the end of a question opens the answer, and the system prompt stands before the last question.
MISTRAL = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}{%- for m in rest %}"
    "{%- if m.role == 'user' %}{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
    "{%- elif not loop.last and loop.index0 >= rest | length - 2 and system is defined %}"
    "{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
    "{%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}{%- endif %}{%- endfor %}"
)
# Llama 2's: the system prompt within the first question.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Llama 3's with tools: a macro, a date, a system turn of its own, and a trim.
LLAMA3_TOOLS = (
    "{{- bos_token }}{%- macro head(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\n\n' }}{%- endmacro %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- head('system') }}{%- if tools is not none %}{{- 'Environment: ipython\n' }}{%- endif %}"
    "{{- 'Cutting Knowledge Date: December 2023\n\n' }}{{- system_message }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}{%- if message.role == 'tool' or message.role == 'ipython' %}{{- head('ipython') }}"
    "{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}"
    "{%- else %}{{- message.content }}{%- endif %}{{- '<|eot_id|>' }}"
    "{%- else %}{{- head(message.role) + message.content | trim + '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- head('assistant') }}{%- endif %}"
)
# A thinking model's: the prompt opens the thought, earlier thoughts are cut away.
THINKING = (
    "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set parts = m.content.split('</think>') %}"
    "{%- set said = parts[-1].lstrip('\n') %}{%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}"
    "{%- if loop.index0 > ns.last %}{{- '<|im_start|>assistant\n<think>\n' ~ thought ~ '\n</think>\n\n' ~ said ~ '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>assistant\n' ~ said ~ '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)
# The system prompt behind everything else.
SYSTEM_LAST = (
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% for m in messages if m.role == 'system' %}<|system|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Words for roles, no control token at all but the end.
PLAIN = (
    "{% for m in messages %}{{ '### ' + m.role | capitalize + ':\n' + m.content + ('</s>' if m.role == 'assistant' else '') + '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
# Filters that make new texts of what they are given.
FILTERS = (
    "{% for m in messages %}{{ ['<|im_start|>', m.role, '\n'] | join }}{{ m.content | replace('x', 'y') | indent(2) }}"
    "{{ '%s\n' | format('<|im_end|>') }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BLOCKS = (
    "{% macro shown(m) %}{% set text %}{{ m.content }}{% endset %}{{ text | trim }}{% endmacro %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ shown(m) }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORMATS = (
    "{% for m in messages %}{{ '<|im_start|>{}\n{}<|im_end|>\n'.format(m.role, m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PERCENT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '%s' % m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for line in m.content.split('\n') %}{{ line }}{% if not loop.last %}{{ '\n' }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TWO = talk("A?", "a", "Is it assistant?\n", "assistant\n", system="s")


def row(template: str, turns: Turns, **how: bool) -> EncodedRow:
    """A conversation as it is trained."""
    (found,) = model_text(template).rows(**how).encode(Shape.CHAT, [(turns,)])
    assert not found.refused, found.refused
    return found


def trained(template: str, turns: Turns) -> list[str]:
    """What is trained, as text."""
    found = row(template, turns)
    assert found.shown is not None
    said = [str.__str__(found.shown.text)[slice(*span)] for span in found.shown.spans]
    tokens = [(found.places[begin][0], found.places[end - 1][1]) for begin, end in found.spans]
    assert tokens == list(found.shown.spans)
    return said


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (MISTRAL, [" a</s>", " assistant</s>"]),
        (LLAMA2, [" a </s>", " assistant </s>"]),
        (LLAMA3_TOOLS, ["a<|eot_id|>", "assistant<|eot_id|>"]),
        (THINKING, ["a<|im_end|>", "\n</think>\n\nassistant\n<|im_end|>"]),
        (SYSTEM_LAST, ["a<|end|>", "assistant\n<|end|>"]),
        (PLAIN, ["a</s>", "assistant\n</s>"]),
        (FILTERS, ["a<|im_end|>", "assistant\n<|im_end|>"]),
        (BLOCKS, ["a<|im_end|>", "assistant<|im_end|>"]),
        (FORMATS, ["a<|im_end|>", "assistant\n<|im_end|>"]),
        (PERCENT, ["a<|im_end|>", "assistant\n<|im_end|>"]),
        (LINES, ["a<|im_end|>", "assistant\n<|im_end|>"]),
    ],
    ids=["mistral", "llama2", "llama3", "thinking", "system-last", "plain", "filters", "blocks", "formats", "percent", "lines"],
)
def test_what_the_model_has_to_generate_is_trained(template: str, expected: list[str]) -> None:
    assert trained(template, TWO) == expected


@pytest.mark.parametrize("template", [MISTRAL, LLAMA2, LLAMA3_TOOLS, THINKING, SYSTEM_LAST, PLAIN, BLOCKS])
@pytest.mark.parametrize(
    "answer", ["a", "s", "system", "user", "assistant", "<", "[", " ", "x\n\n", "\n\tx", "<think>", "###", "A?"]
)
def test_the_end_is_trained_whatever_the_answer(template: str, answer: str) -> None:
    turns = talk("A?", answer, "B?", answer)
    found = trained(template, turns)
    wanted = 0 if not answer.strip() else 2
    assert len(found) == wanted
    text = model_text(template)
    for part in found:
        (*_, last) = text.control.found_in(part)
        assert last.end() == len(part)
        assert answer.strip() in part
        assert len(part) <= len(answer) + len("\n</think>\n\n ") + len(last[0])


def test_a_thought_that_the_prompt_opens() -> None:
    turns = talk("Why?", "<think>\nhm\n</think>\n\nBecause.", "So?", "<think>\nho\n</think>\n\nYes.")
    assert trained(THINKING, turns) == ["Because.<|im_end|>", "ho\n</think>\n\nYes.<|im_end|>"]
    shown = row(THINKING, turns, compare=True).shown
    assert shown is not None
    (change,) = shown.changes
    assert "shows turn 2 as 'Because.<|im_end|>' later" in change
    assert "'hm\\n</think>\\n\\nBecause.<|im_end|>' when it is generated" in change


def test_a_turn_that_is_context_alone_is_not_trained() -> None:
    turns = (Turn("user", "A?"), Turn("assistant", "BAD", trained=False), Turn("user", "B?"), Turn("assistant", "b"))
    assert trained(PLAIN, turns) == ["b</s>"]
    prompt, completion = turns[:3], turns[3:]
    (found,) = model_text(PLAIN).rows().encode(Shape.PROMPT_COMPLETION, [(talk("A?", "BAD", "B?"), completion)])
    assert found.shown is not None
    assert [str.__str__(found.shown.text)[slice(*span)] for span in found.shown.spans] == ["b</s>"]
    assert len(prompt) == 3


def test_a_role_that_the_template_leaves_out_is_noted() -> None:
    template = "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    shown = row(template, TWO, compare=True).shown
    assert shown is not None
    assert shown.changes == ("leaves out turn 1, which is the system's",)


# Generation marks


def marks(answer: str) -> str:
    """ChatML in which an answer is written so."""
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + answer
        + "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


WHOLE = ["a<|im_end|>", "assistant\n<|im_end|>"]


@pytest.mark.parametrize(
    ("answer", "expected", "unmarked"),
    [
        # Round what is generated, round more, round the header, round the words alone.
        ("<|im_start|>assistant\n{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}", WHOLE, False),
        ("<|im_start|>assistant\n{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}", WHOLE, False),
        ("{% generation %}<|im_start|>assistant\n{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}", WHOLE, False),
        ("<|im_start|>assistant\n{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n", WHOLE, True),
        ("<|im_start|>assistant\n{%- generation -%}{{ m.content }}{%- endgeneration -%}<|im_end|>\n", WHOLE, True),
        # Round one of two parts.
        (
            "<|im_start|>assistant\n{% generation %}{{ m.content[:1] }}{% endgeneration %}{{ m.content[1:] }}<|im_end|>\n",
            ["a<|im_end|>", "a"],
            True,
        ),
        # Round the last answer alone.
        (
            "<|im_start|>assistant\n{% if loop.last %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}"
            "{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}",
            WHOLE[1:],
            False,
        ),
    ],
)
def test_marks_say_which_answers_are_trained_and_each_with_its_end(answer: str, expected: list[str], unmarked: bool) -> None:
    assert trained(marks(answer), TWO) == expected
    shown = row(marks(answer), TWO).shown
    assert shown is not None
    assert shown.unmarked is unmarked
    assert shown.excluded == 2 - len(expected)


def test_marks_that_leave_every_answer_out_train_nothing() -> None:
    template = marks("<|im_start|>assistant\n{{ m.content }}{% generation %}{% endgeneration %}<|im_end|>\n")
    found = row(template, TWO)
    assert found.spans == ()
    assert found.shown is not None
    assert (found.shown.answers, found.shown.excluded) == (2, 2)
