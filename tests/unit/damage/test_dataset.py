"""A dataset that is damaged in any way is read, or refused in one sentence: to train on, to show, to compare and to prepare."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.chat.model import ModelText
from smolorad.corpus.preview import preview
from smolorad.corpus.readers.saved import open_saved, read_dataset
from smolorad.corpus.write import split_writer, write_splits
from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.train.checkpoint import Identity
from smolorad.engine.train.dataset import read_rows
from smolorad.errors import Damaged
from smolorad.publish import MANIFEST, publish
from tests.mutations import Mutation, contained, copied, damage, mutations
from tests.tiny import CHAT_TEMPLATE, END, tiny_tokenizer

TURNS = [[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]] * 3
COLUMNS = {
    "text": {"text": ["In the beginning", "a second row", "a third"]},
    "chat": {"messages": TURNS},
    "pairs": {"prompt": ["a", "b", "c"], "chosen": ["x", "y", "z"], "rejected": ["k", "l", "m"]},
}

# Libraries warn of what they find strange, each in its own words.
pytestmark = [
    pytest.mark.hypothesis,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
]


@pytest.fixture(scope="module", params=sorted(COLUMNS))
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset as the corpus worker writes it, published."""
    stage = tmp_path_factory.mktemp("data") / "stage"
    stage.mkdir()
    batch = pa.RecordBatch.from_pydict(COLUMNS[request.param])
    for split in ("train", "validation"):
        with split_writer(stage, split, batch.schema) as writer:
            writer.write(batch)
    write_splits(stage, ["train", "validation"])
    publish(stage, stage.parent / "1", {"name": "d"})
    return stage.parent / "1"


def use(folder: Path, how: str) -> None:
    settings = TrainerSettings()
    match how:
        case "train":
            Identity.of(LoraSettings(), settings, folder, "")
            text = ModelText(tiny_tokenizer().backend_tokenizer, CHAT_TEMPLATE, {"eos_token": END}, [END])
            rows = read_rows(folder, text, settings, 64, lambda: None)
            for split in (rows.train, rows.held_out):
                assert split is None or list(split)
        case "preview":
            preview(folder, "train", 0, 10)
        case "prepare":
            for split in open_saved(folder, lambda note: None):
                list(read_dataset(split.dataset, split.name, lambda columns: columns))


def test_any_file(dataset: Path, where: Path) -> None:
    @damage(100)
    @given(mutations(dataset), st.sampled_from(["train", "preview", "prepare"]), st.booleans())
    def run(mutation: Mutation, how: str, published: bool) -> None:
        with copied(dataset, where) as copy:
            if not published and mutation.file != MANIFEST:
                (copy / MANIFEST).unlink()
            mutation.apply(copy)
            refused = contained(lambda: use(copy, how))
            if how == "train" and published and mutation.file != MANIFEST:
                assert isinstance(refused, Damaged) or mutation.content == (dataset / mutation.file).read_bytes()

    run()
