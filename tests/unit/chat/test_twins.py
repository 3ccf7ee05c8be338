"""Which tokens are trained, for every chat template that TRL ships, compared with its training version.

The training versions mark what the assistant generates. Each answer with its end is trained, and nothing outside the marks is.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from smolorad.chat.template import ChatTemplate
from smolorad.chat.tracked import is_marked
from smolorad.chat.turns import Turns
from smolorad.domain import Shape
from tests.unit.chat.kit import FOLDER, SPECIAL, TEMPLATES, model_text, talk

TWINS = sorted(path.name.removesuffix("_training.jinja") for path in FOLDER.glob("*_training.jinja"))

TALKS = {
    "one letter": talk("A or B?", "A"),
    "one letter twice": talk("Letter?", "a", "Next?", "b"),
    "a word of the header": talk("Who?", "assistant"),
    "words of headers": talk("Who?", "user", "And?", "final", "What?", "model", "Or?", "s"),
    "the beginning of a thought's mark": talk("Why?", "<th"),
    "a mark alone": talk("Why?", "<"),
    "ends in a newline": talk("Why?", "Because.\n"),
    "ends in spaces, twice": talk("Say hi", "Hi.\n", "Bye", "Bye.  "),
    "begins with space": talk("Why?", "\n\n  Because."),
    "three turns": talk("one", "1", "two", "2", "three", "3", system="Count."),
    "thoughts": talk("Why?", "<think>\nhm\n</think>\n\nBecause."),
    "thoughts twice": talk("Why?", "<think>\nhm\n</think>\n\nBecause.", "So?", "<think>\nho\n</think>\n\nYes."),
    "an unclosed thought": talk("Why?", "<think>\nhm"),
    "a closed thought alone": talk("Why?", "hm</think>Because."),
    "code": talk("Code?", "    if x:\n        return 1\n", "More?", "def f():\n\tpass"),
    "the same again": talk("Say it", "Say it", "Say it", "Say it"),
    "a question like a header": talk("assistant\n", "No.", "<think>", "Yes."),
    "other writing": talk("なぜ？", "だから。🙂", "Warum?", "Äh, so."),
}


def marked_parts(twin: ChatTemplate, turns: Turns) -> list[str]:
    """What TRL's training version marks, by transformers' own rendering where it takes contents as texts."""
    shown = twin.render(turns)
    parts, part = [], ""
    for character, origin in zip(str.__str__(shown)[:], shown.origins, strict=True):
        if is_marked(origin):
            part += character
        elif part:
            parts, part = [*parts, part], ""
    return [*parts, part] if part else parts


def test_every_template_with_a_training_version_is_walked() -> None:
    assert len(TWINS) >= 30
    assert {"qwen3", "deepseek_r1_distill", "deepseekv3", "gptoss", "llama3", "gemma3", "glm4moe"} <= set(TWINS)


@pytest.mark.parametrize("name", TWINS)
def test_each_answer_and_its_end_are_trained_and_nothing_that_the_twin_leaves_out(name: str) -> None:
    source, training = ((FOLDER / f"{name}{end}.jinja").read_text(encoding="utf-8") for end in ("", "_training"))
    text, twin = model_text(source), ChatTemplate(training, SPECIAL)
    walked = 0
    for what, turns in TALKS.items():
        (row,) = text.rows().encode(Shape.CHAT, [(turns,)])
        if row.refused:
            assert turns[0].role == "system", (what, row.refused)
            continue
        walked += 1
        assert row.shown is not None
        marks = marked_parts(twin, turns)
        answers = [turn.content for turn in turns if turn.role == "assistant"]
        said = [str.__str__(row.shown.text)[slice(*span)] for span in row.shown.spans]
        assert len(said) == len(answers) == len(marks), what
        for part, mark, answer in zip(said, marks, answers, strict=True):
            words = answer.rpartition("</think>")[2].strip()
            assert part in mark, (what, part, mark)
            assert words in part, (what, part)
            assert [one.end() for one in text.control.found_in(part)][-1:] == [len(part)], (what, part, "has no end")
        # The tokens are those characters.
        starts = [(row.places[begin][0], row.places[end - 1][1]) for begin, end in row.spans]
        assert starts == list(row.shown.spans), what
    assert walked >= len(TALKS) - 1


@pytest.mark.parametrize("path", TEMPLATES)
def test_conversations_are_rendered_as_transformers_renders_them(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    template = ChatTemplate(source, SPECIAL)
    for turns in TALKS.values():
        if turns[0].role == "system" and template.render(turns[1:2]) and "System role not supported" in source:
            continue
        for opened in (False, True):
            as_parts = template.wants_parts
            messages = [
                {"role": turn.role, "content": [{"type": "text", "text": turn.content}] if as_parts else turn.content}
                for turn in turns
            ]
            (theirs,), _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=opened, **SPECIAL)
            assert template.render(turns, open_for_answer=opened) == theirs
