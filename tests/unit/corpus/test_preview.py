"""Any rows of a prepared dataset."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from smolorad.chat.turns import Turn, Value
from smolorad.corpus.measure import shown_rows
from smolorad.corpus.prepare import prepare
from smolorad.corpus.preview import preview
from smolorad.corpus.tokenizer import ModelText
from smolorad.corpus.write import data_file
from smolorad.domain import PrepareSpec, Preview, PreviewRow, RowSpan, Shape
from smolorad.engine.train.tokenize import CHAT, COMPLETION, PREFERENCE, TEXT, UNSCORED, RowTokenizer
from smolorad.errors import Damaged, NotFound
from tests.tiny import tiny_tokenizer
from tests.unit.corpus.kit import Recorder, fill

SPEC = PrepareSpec("d", upload_id="u", validation=0.0)

ROWS = [f"row {n}" for n in range(2500)]  # more than two batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    written(folder, ROWS)
    return folder


def written(folder: Path, texts: list[str]) -> None:
    """A prepared dataset of these texts."""
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    prepare(fill(folder / "in", {"a.jsonl": content}), SPEC, None, folder / "out", Recorder())


@pytest.mark.hypothesis
def test_rows_of_any_batch_are_found(dataset: Path) -> None:
    @settings(deadline=None)
    @given(st.integers(0, 3000), st.integers(1, 1500))
    def agrees(offset: int, limit: int) -> None:
        shown = preview(dataset / "out", "train", offset, limit)
        assert (list(shown.rows), shown.total_rows) == (ROWS[offset : offset + limit], len(ROWS))
        assert ["".join(span.text for span in row.spans) for row in shown.shown] == list(shown.rows)

    agrees()


def test_long_rows_are_cut(tmp_path: Path) -> None:
    written(tmp_path, ["ä" * 5000])
    shown = preview(tmp_path / "out", "train", 0, 5)
    assert shown == Preview(("ä" * 4096,), 1, (PreviewRow((RowSpan("ä" * 4096, True),)),))


def test_a_missing_split_and_a_torn_file_are_told(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(NotFound, match=r"no split validation; .* read the split train"):
        preview(dataset / "out", "validation", 0, 1)
    torn = data_file(tmp_path, "train")
    torn.parent.mkdir()
    content = data_file(dataset / "out", "train").read_bytes()
    for kept in (0, 100, len(content) // 2):
        torn.write_bytes(content[:kept])
        with pytest.raises(Damaged, match="prepare the dataset again"):
            preview(tmp_path, "train", 0, 1)


SHAPES = {
    Shape.TEXT: [("one two <|im_end|> three",), ("ünï 🙂\n  x ",)],
    Shape.PROMPT_COMPLETION: [("Who?", " The keeper."), ("The kee", "per <|im_start|>"), ("", "x"), ("x ", " y")],
    Shape.CHAT: [
        ((Turn("user", "Who?"), Turn("assistant", " He.\n"), Turn("user", "<|im_end|>"), Turn("assistant", "assistant")),),
        ((Turn("system", "Be brief."), Turn("user", "A?"), Turn("assistant", "a", trained=False), Turn("assistant", "b")),),
    ],
    Shape.PREFERENCE: [
        ("Who?", " He.", " She and he."),
        ((Turn("user", "Q"),), (Turn("assistant", "y"),), (Turn("assistant", "no"),)),
    ],
}
COLUMNS_OF = {Shape.TEXT: TEXT, Shape.PROMPT_COMPLETION: COMPLETION, Shape.CHAT: CHAT, Shape.PREFERENCE: PREFERENCE}


def cells(values: tuple[Value, ...]) -> list[Any]:
    """The values as a dataset has them."""
    return [
        value
        if isinstance(value, str)
        else [{"role": turn.role, "content": turn.content, "weight": int(turn.trained)} for turn in value]
        for value in values
    ]


@pytest.mark.parametrize("post", [None, "begin", "trim"])
@pytest.mark.parametrize("parse_special", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_exactly_the_tokens_that_training_takes_are_shown(
    tmp_path: Path, shape: Shape, parse_special: bool, post: str | None
) -> None:
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    if post == "begin":
        backend.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    elif post == "trim":
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.save_pretrained(tmp_path)
    model = ModelText(tmp_path / "tokenizer.json")
    for row in SHAPES[shape]:
        (shown,) = shown_rows(model, shape, [row], parse_special=parse_special)
        kind = COLUMNS_OF[shape]
        batch = {column: [cell] for column, cell in zip(kind.columns, cells(row), strict=True)}
        trained = RowTokenizer(kind, model.rows(parse_special=parse_special), None)(batch)
        said = [shown.text[begin:end] for begin, end in shown.spans]
        if shape is Shape.PREFERENCE:
            assert said == [decoded(tokenizer, trained["chosen_ids"][0])]
            assert shown.text == decoded(tokenizer, [*trained["prompt_ids"][0], *trained["chosen_ids"][0]])
            continue
        assert shown.text == decoded(tokenizer, trained["input_ids"][0])
        parts = [list(part) for scored, part in groupby(trained["labels"][0], lambda label: label != UNSCORED) if scored]
        assert said == [decoded(tokenizer, part) for part in parts]


def decoded(tokenizer: Any, ids: list[int]) -> str:
    """Token ids as text, the special ones too."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
