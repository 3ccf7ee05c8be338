"""With every chat template that TRL ships, what a user writes is text: asked, counted, previewed and trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolorad.chat.model import ModelText
from smolorad.chat.turns import Turns
from smolorad.corpus.measure import shown_rows
from smolorad.domain import Shape
from tests.unit.chat.kit import TEMPLATES, model_text, talk


def controls(model: ModelText, ids: list[int]) -> list[int]:
    """The control tokens among token ids."""
    known = {model.tokenizer.token_to_id(token) for token in model.control.tokens}
    return [one for one in ids if one in known]


def talks(words: str) -> tuple[Turns, Turns]:
    """A conversation that waits for its answer, and one that is trained; both say these words in every turn."""
    return talk(words, words, words), talk(words, words, words, words)


@pytest.mark.parametrize("path", TEMPLATES)
def test_what_a_user_writes_is_text_with_every_template(path: Path) -> None:
    model = model_text(path.read_text(encoding="utf-8"))
    assert len(model.control.tokens) > 1
    spelled = "x " + " ".join(sorted(model.control.tokens)) + " y"
    (asked, trained), (plainly_asked, plainly_trained) = talks(spelled), talks("x y")
    expected = controls(model, model.conversation(plainly_asked))
    assert controls(model, model.conversation(asked)) == expected
    assert len(controls(model, model.conversation(asked, parse_special=True))) > len(expected)

    (row,), (plain) = model.rows().encode(Shape.CHAT, [(trained,)]), model.rows().encode(Shape.CHAT, [(plainly_trained,)])[0]
    assert controls(model, row.token_ids()) == controls(model, plain.token_ids())
    assert len(row.spans) == len(plain.spans)
    for (begin, end), (first, last) in zip(row.spans, plain.spans, strict=True):
        assert controls(model, row.token_ids()[begin:end]) == controls(model, plain.token_ids()[first:last])
    (parsed,) = model.rows(parse_special=True).encode(Shape.CHAT, [(trained,)])
    assert len(controls(model, parsed.token_ids())) > len(controls(model, row.token_ids()))

    (shown,) = shown_rows(model, Shape.CHAT, [(trained,)])  # type: ignore[arg-type] - a folder's context is not asked for
    assert shown.text.count("y") >= len(trained)
    assert len(shown.spans) == len(row.spans)
    assert all(" y" in shown.text[begin:end] for begin, end in shown.spans)
