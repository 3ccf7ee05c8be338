"""What becomes of rows: cut, filtered, split without a leak, measured, looked at; and clean data raises nothing."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolorad.corpus import chunk
from smolorad.corpus.chunk import by_paragraphs, by_tokens
from smolorad.corpus.diff import diff
from smolorad.corpus.prepare import prepare
from smolorad.corpus.quality import damage
from smolorad.corpus.tokenizer import ModelText
from smolorad.domain import ChunkUnit, FileType, Prepared, PrepareSpec, ProblemKind, Shape, TextUnit
from smolorad.errors import InvalidRequest
from tests.examples import examples
from tests.house.repository import ROOT
from tests.tiny import CHAT_TEMPLATE, CORPUS, tiny_tokenizer
from tests.unit.corpus.kit import Recorder, fill


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text side of a tiny model."""
    folder = tmp_path_factory.mktemp("model")
    tiny = tiny_tokenizer(chat=False)
    tiny.eos_token, tiny.chat_template = "<|im_end|>", CHAT_TEMPLATE
    tiny.save_pretrained(folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 4096}')
    return folder / "tokenizer.json"


def made(files: Path, output: Path, tokenizer: Path | None = None, host: Recorder | None = None, **fields: Any) -> Prepared:
    """Prepares a folder; nothing is held out unless it is asked for."""
    spec = replace(PrepareSpec("d", upload_id="u", validation=0.0), **fields)
    return prepare(files, spec, tokenizer, output, host or Recorder())


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    return fill(folder, {"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})


def texts(output: Path) -> list[str]:
    """The texts to train on, as plain `datasets` loads them."""
    found: list[str] = datasets.load_from_disk(str(output))["train"]["text"][:]
    return found


def kinds(prepared: Prepared) -> dict[ProblemKind, int]:
    return {finding.kind: finding.rows for finding in prepared.report.findings}


# Pieces


@given(st.lists(st.sampled_from(["one two", "three", "four\nfive"]), max_size=8), st.integers(1, 4))
def test_pieces_of_paragraphs_are_whole_and_lose_nothing(paragraphs: list[str], size: int) -> None:
    pieces = list(by_paragraphs("\n \n\n".join(paragraphs), size))
    assert "\n\n".join(pieces) == "\n\n".join(paragraphs)
    assert all(piece.count("\n\n") < size for piece in pieces)


@pytest.mark.hypothesis
def test_pieces_of_tokens_overlap_and_tear_no_character(tokenizer: Path) -> None:
    model = ModelText(tokenizer)

    @settings(deadline=None, max_examples=examples(60))
    @given(st.lists(st.sampled_from([*CORPUS, "日本語🙂", "a  b\n"]), min_size=1, max_size=3).map(" ".join), st.integers(1, 30))
    def agrees(text: str, size: int) -> None:
        apart = list(by_tokens(text, size, 0, model))
        assert "".join("".join(apart).split()) == "".join(text.split())
        overlapping = list(by_tokens(text, size, size // 2, model))
        assert len(overlapping) >= len(apart)
        assert all(piece in text and piece == piece.strip() != "" for piece in overlapping)

    agrees()


def test_a_text_cut_part_by_part_is_cut_as_the_whole(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelText(tokenizer)
    text = "\n".join(CORPUS * 3)
    whole = {(size, overlap): list(by_tokens(text, size, overlap, model)) for size in (1, 7, 500) for overlap in (0, size // 2)}
    monkeypatch.setattr(chunk, "_PART_CHARACTERS", 40)
    assert {how: list(by_tokens(text, *how, model)) for how in whole} == whole
    letters = "日本語も少し" * 50  # no space to part it at
    assert "".join(by_tokens(letters, 7, 0, model)) == letters


def test_of_a_long_text_only_a_part_is_encoded_before_its_first_piece(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelText(tokenizer)
    encoded: list[int] = []

    class Noting:
        def encode(self, text: str, **how: Any) -> Any:
            encoded.append(len(text))
            return whole.encode(text, **how)

    whole, model.tokenizer = model.tokenizer, cast(Any, Noting())
    next(iter(by_tokens("word " * 2**18, 16, 0, model)))
    assert sum(encoded) < 2**17


def test_tokens_need_a_tokenizer(tmp_path: Path, tokenizer: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": " ".join(CORPUS)})
    with pytest.raises(InvalidRequest, match="no tokenizer is at hand; load a model, or name one with --model"):
        made(files, tmp_path / "out", chunk_size=8, chunk_unit=ChunkUnit.TOKENS)
    made(files, tmp_path / "out", tokenizer, chunk_size=8, chunk_unit=ChunkUnit.TOKENS, chunk_overlap=2)
    assert len(texts(tmp_path / "out")) > 4


def test_rows_of_a_wrong_length_are_left_out_and_told(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "a\nabc\nabcdef\n"})
    prepared = made(files, tmp_path / "out", min_characters=2, max_characters=5)
    assert texts(tmp_path / "out") == ["abc"]
    assert (prepared.report.rows_filtered, kinds(prepared)) == (2, {ProblemKind.FILTERED: 2})
    assert [one.line for one in prepared.report.findings[0].examples] == [1, 3]


# Repetitions


def found_of(prepared: Prepared, kind: ProblemKind) -> list[tuple[str, str]]:
    """Of one kind the places, and what is said of them."""
    examples = [one for finding in prepared.report.findings if finding.kind is kind for one in finding.examples]
    return [(f"{one.file}:{one.line}", one.why) for one in examples]


@pytest.mark.parametrize("shape", [Shape.TEXT, Shape.CHAT])
def test_of_a_repetition_it_is_told_where_the_row_stood_first(tmp_path: Path, shape: Shape) -> None:
    def row(n: int) -> dict[str, Any]:
        said = [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]
        return {"text": f"row {n}"} if shape is Shape.TEXT else {"messages": said}

    files = jsonl(tmp_path / "in", *map(row, [*range(1500), 1400, 7, 1400]))
    prepared = made(files, tmp_path / "out")
    assert found_of(prepared, ProblemKind.DUPLICATE) == [
        (f"a.jsonl:{line}", f"stood before, word for word, at a.jsonl:{first}, and was left out; remove it")
        for line, first in ((1501, 1401), (1502, 8), (1503, 1401))
    ]


def test_a_row_in_files_of_two_splits_is_told_as_that(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"row {n}"}) for n in range(12)]
    files = {"train.jsonl": lines[:10], "validation.jsonl": lines[8:], "more.jsonl": [lines[0]]}
    prepared = made(fill(tmp_path / "in", {name: "\n".join(rows) for name, rows in files.items()}), tmp_path / "out")
    assert kinds(prepared) == {ProblemKind.IN_TWO_SPLITS: 2, ProblemKind.DUPLICATE: 1}
    assert (prepared.report.rows_duplicate, prepared.train_rows, prepared.validation_rows) == (3, 10, 2)
    (place, why), _ = found_of(prepared, ProblemKind.IN_TWO_SPLITS)
    assert place == "validation.jsonl:1"
    assert why.startswith("stood before, word for word, in a file of another split, at train.jsonl:9, and was left out; remove")
    assert found_of(prepared, ProblemKind.DUPLICATE)[0][1].endswith("at more.jsonl:1, and was left out; remove it")


# The split


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), min_size=2, max_size=40, unique=True), st.integers(0, 99))
@settings(deadline=None, max_examples=examples(30))
def test_rows_of_one_prompt_never_stand_in_both_splits(rows: list[tuple[int, int]], seed: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = jsonl(Path(folder, "in"), *({"prompt": f"p{prompt}", "completion": f"c{n}"} for prompt, n in rows))
        made(files, Path(folder, "out"), validation=0.4, seed=seed, strict_groups=True)
        found = datasets.load_from_disk(str(Path(folder, "out")), keep_in_memory=True)
        held = found["validation"]["prompt"] if "validation" in found else []
        assert len(found["train"]) > 0
        assert not set(found["train"]["prompt"]) & set(held)
        assert len(found["train"]) + len(held) == len(rows)


@pytest.mark.parametrize("texts", [1, 30])
def test_no_words_stand_in_both_splits_where_pieces_overlap(tmp_path: Path, tokenizer: Path, texts: int) -> None:
    each = 6000 // texts
    files = fill(tmp_path / "in", {f"{n}.txt": " ".join(f"w{n}x{at}" for at in range(each)) for n in range(texts)})
    chunks = {"text_unit": TextUnit.DOCUMENT, "chunk_unit": ChunkUnit.TOKENS, "chunk_size": 64, "chunk_overlap": 16}
    host = Recorder()
    prepared = made(files, tmp_path / "out", tokenizer, host, validation=0.1, **chunks)
    found = datasets.load_from_disk(str(tmp_path / "out"))
    # A word may be cut at the edge of a piece, so that its beginning alone stands there.
    train, held = ({word for text in found[split]["text"] for word in text.split()[1:-1]} for split in ("train", "validation"))
    assert not train & held
    assert (len(found["train"]), len(found["validation"])) == (prepared.train_rows, prepared.validation_rows)
    assert prepared.report.rows_kept == prepared.train_rows + prepared.validation_rows
    assert 0.08 < prepared.validation_rows / prepared.report.rows_kept < 0.12
    if texts == 1:
        assert any("a part both of what is trained on and of what is held out" in note for note in host.notes)


@pytest.mark.parametrize("strict", [False, True])
def test_rows_of_one_prompt_alone_are_parted_unless_that_is_forbidden(tmp_path: Path, tokenizer: Path, strict: bool) -> None:
    files = jsonl(tmp_path / "in", *({"prompt": "p", "completion": f"c{n}"} for n in range(20)))
    host = Recorder()
    prepared = made(files, tmp_path / "out", tokenizer, host, validation=0.2, strict_groups=strict)
    ((place, why),) = found_of(prepared, ProblemKind.SHARED_PROMPT)
    assert place == "a.jsonl:1"
    assert why.startswith("has the prompt of 19 other rows, of 1 prompt in all; ")
    assert "--strict-groups" in why
    assert kinds(prepared)[ProblemKind.SHARED_PROMPT] == 20
    splits = ["train"] if strict else ["train", "validation"]
    assert (prepared.train_rows, prepared.validation_rows) == ((20, 0) if strict else (16, 4))
    assert set(datasets.load_from_disk(str(tmp_path / "out"))) == set(splits)
    assert sorted(path.name for path in (tmp_path / "out" / "tokens").glob("*.arrow")) == [f"{name}.arrow" for name in splits]
    assert (tmp_path / "out" / "validation").exists() != strict
    if strict:
        assert host.notes == [
            "Rows of one prompt, and pieces that overlap, stay in one split, and too few are of others, "
            "so nothing is held out for evaluation."
        ]
    else:
        assert host.notes == []


# Tokens


def test_tokens_stand_beside_the_rows_with_what_is_scored(tmp_path: Path, tokenizer: Path) -> None:
    rows = [{"prompt": f"Who keeps lamp {n}?", "completion": f" Keeper {n}."} for n in range(20)]
    prepared = made(jsonl(tmp_path / "in", *rows), tmp_path / "out", tokenizer, validation=0.2)
    found = datasets.load_from_disk(str(tmp_path / "out"))
    model = ModelText(tokenizer)
    for split in ("train", "validation"):
        with pa.memory_map(str(tmp_path / "out" / "tokens" / f"{split}.arrow")) as source:
            table = pa.ipc.open_stream(source).read_all()
        assert table.num_rows == len(found[split])
        for row, ids, (begin, end) in zip(
            found[split], table["input_ids"].to_pylist(), table["scored"].to_pylist(), strict=True
        ):
            assert (
                ids
                == array(
                    "i", model.encoder(parse_special=True).encode([row["prompt"] + row["completion"] + "<|im_end|>"])[0]
                ).tolist()
            )
            assert model.tokenizer.decode(ids[begin:end], skip_special_tokens=False) == row["completion"] + "<|im_end|>"
    report = prepared.report
    assert report.tokens_read == report.tokens + 20
    assert sum(one.rows for one in report.lengths) == 20
    assert 0 < report.tokens_scored < report.tokens_read


def test_what_max_length_cuts_is_counted(tmp_path: Path, tokenizer: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "a\n" + "word " * 100})
    report = made(files, tmp_path / "out", tokenizer, max_length=16).report
    assert (report.rows_truncated, report.max_length) == (1, 16)
    assert report.tokens_truncated == report.longest - 16


# Quality


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a\x07b", ProblemKind.CONTROL_CHARACTERS),
        ("a\x9bb", ProblemKind.CONTROL_CHARACTERS),
        ("a \ufeffb", ProblemKind.CONTROL_CHARACTERS),
        ("SchÃ¶n", ProblemKind.MOJIBAKE),
        ("itâ€™s", ProblemKind.MOJIBAKE),
        ("10 Â°C", ProblemKind.MOJIBAKE),
        ("a \ufffd b", ProblemKind.MOJIBAKE),
    ],
)
def test_damaged_text_is_found(text: str, kind: ProblemKind) -> None:
    found = damage(text)
    assert found is not None
    assert found[0] is kind


@pytest.mark.parametrize(
    "text", [*CORPUS, "NÃO É", "it’s “here”…", "a\tb\nc\x0cd\r\n", "SÃO PAULO", "5 °C", "ﬁ ½ €", "نص", "ก็"]
)
def test_sound_text_is_not(text: str) -> None:
    assert damage(text) is None


def test_boilerplate_is_found(tmp_path: Path) -> None:
    words = [" ".join(f"w{(n * 7 + k) % 101}" for k in range(40)) for n in range(100)]
    footer = "Subscribe to our newsletter to never miss a story again."
    mixed = [f"{text} {footer}" if n % 2 else text for n, text in enumerate(words)]
    assert kinds(made(fill(tmp_path / "in", {"a.txt": "\n".join(mixed)}), tmp_path / "out")) == {ProblemKind.BOILERPLATE: 50}
    assert kinds(made(fill(tmp_path / "clean", {"a.txt": "\n".join(words)}), tmp_path / "out")) == {}


def answers(footer: str) -> list[str]:
    """A hundred answers of many words; every second ends in the footer."""
    words = [" ".join(f"w{(n * 7 + k) % 101}" for k in range(40)) for n in range(100)]
    return [f"{text} {footer}" if footer and n % 2 else text for n, text in enumerate(words)]


def in_shape(shape: Shape, number: int, answer: str) -> dict[str, Any]:
    """A row with this answer, of a prompt that begins as all others do."""
    asked = f"Below is an instruction that describes a task. Write a response to it.\n\n### Instruction:\nTask {number}\n\n"
    turns = [
        ("system", "You are a helpful assistant that answers in full sentences. " * 3),
        ("user", asked),
        ("assistant", answer),
    ]
    rows: dict[Shape, dict[str, Any]] = {
        Shape.TEXT: {"text": asked + answer},
        Shape.PROMPT_COMPLETION: {"prompt": asked, "completion": answer},
        Shape.CHAT: {"messages": [{"role": role, "content": said} for role, said in turns]},
        Shape.PREFERENCE: {"prompt": asked, "chosen": answer, "rejected": "no"},
    }
    return rows[shape]


@pytest.mark.parametrize("shape", list(Shape))
def test_boilerplate_is_looked_for_in_what_is_learned(tmp_path: Path, shape: Shape) -> None:
    for footer in ("", "I hope this helps! Let me know if there is anything else."):
        rows = [in_shape(shape, n, answer) for n, answer in enumerate(answers(footer))]
        prepared = made(jsonl(tmp_path / f"in{len(footer)}", *rows), tmp_path / f"out{len(footer)}")
        assert kinds(prepared) == ({ProblemKind.BOILERPLATE: 50} if footer else {})


def test_a_row_without_text_is_told_and_an_empty_line_not(tmp_path: Path) -> None:
    prepared = made(jsonl(tmp_path / "in", {"text": "a"}, {"text": " "}, {"text": ""}), tmp_path / "out")
    assert found_of(prepared, ProblemKind.EMPTY) == [
        (f"a.jsonl:{line}", "has no text, and was left out; write it or remove the row") for line in (2, 3)
    ]
    prepared = made(fill(tmp_path / "lines", {"a.txt": "a\n\nb\n"}), tmp_path / "text")
    assert prepared.report.findings == ()


def clean_sets() -> dict[str, dict[str, Any]]:
    """Real text of five kinds that everybody with this repository has, each with how it is read."""
    pages = {page.name: page.read_text(encoding="utf-8") for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
    log = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "examples/data/lighthouse").glob("*.txt")}
    licence = {"licence.txt": (ROOT / "LICENSE").read_text(encoding="utf-8")}
    code = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "smolorad").glob("*.py")}
    contract = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "proto/smolora/v1").glob("*.proto")}
    return {
        "log": {"files": log},
        "pages": {"files": pages, "file_type": FileType.MARKDOWN},
        "licence": {"files": licence, "text_unit": TextUnit.PARAGRAPH},
        "code": {"files": code, "file_type": FileType.TXT, "text_unit": TextUnit.DOCUMENT},
        "contract": {"files": contract, "file_type": FileType.TXT, "text_unit": TextUnit.PARAGRAPH},
    }


@pytest.mark.parametrize("name", list(clean_sets()))
def test_clean_data_raises_nothing(tmp_path: Path, tokenizer: Path, name: str) -> None:
    given = clean_sets()[name]
    files = fill(tmp_path / "in", given.pop("files"))
    found = kinds(made(files, tmp_path / "out", tokenizer, max_length=4096, **given))
    # The same paragraph twice is dropped wherever it stands, and a tiny model's context is short.
    sound = {ProblemKind.DUPLICATE, ProblemKind.BEYOND_CONTEXT}
    if name == "pages":  # which spell control tokens, where they say what becomes of them
        sound.add(ProblemKind.CONTROL_TOKENS)
    assert set(found) <= sound


TALKS = [
    ("Wie stellt man die Uhr der Küche um?", "Man hält den linken Knopf, bis die Zahlen blinken – dann dreht man ihn."),
    ("Où poser le vélo quand il pleut\u00a0?", "Sous l’auvent, à côté de la porte\u00a0; « c’est là qu’il sèche »."),
    ("Что взять в поход на два дня?", "Палатку, спальник и воду: всё остальное — по желанию."),
    ("傘はどこに置きますか。", "玄関の「右側」に立ててください。"),
    ("O jornal escreveu “AMANH\u00c3” na capa?", "Escreveu: “É AMANH\u00c3”, e a cidade inteira saiu à rua."),
    ("How do I keep bread fresh?", "Wrap it in a cloth and put it in a tin; it's good for 3 days."),
]
TEXT_OF = {
    "german": "Der Müller öffnet früh. »Schönes Wetter«, sagt er, „heiß wird’s“.\nDas Maß ist voll, die Größe paßt.\n",
    "portuguese": "A maçã caiu; ninguém a apanhou.\nO cartaz dizia “REUNIÃO AMANH\u00c3” – às três.\nCAFÉ’S e PÃO: 5 €.\n",
    "russian": "Утром почтальон принёс письмо.\nОно было коротким — всего две строки…\n№ 7, улица «Садовая».\n",
    "japanese": "駅前の本屋は九時に開く。\n店主は「おはよう」と言った。\nコーヒーは三百円です…\n",
    "czech": "Úžasný den začal deštěm.\nVÝŠE už je jen nebe, řekl „Tomáš\u00a0Novák“.\n",
}


def clean_rows() -> dict[str, dict[str, str]]:
    """Small sound sets of every shape and format, in several languages."""
    chats = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in TALKS]
    pairs = [{"prompt": f"{asked} ", "completion": answer} for asked, answer in TALKS]
    better = [{"prompt": asked, "chosen": answer, "rejected": f"{answer[:9]}…"} for asked, answer in TALKS]
    table = "".join(f'"{asked}","{answer}"\n' for asked, answer in TALKS)
    tabs = "".join(f"{asked}\t{answer}\n" for asked, answer in TALKS)
    sharegpt = [{"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]} for a, b in TALKS]
    return {
        "chat.jsonl": {"a.jsonl": lines_of(chats)},
        "sharegpt.json": {"a.json": json.dumps(sharegpt, ensure_ascii=False, indent=1)},
        "completion.jsonl": {"a.jsonl": lines_of(pairs)},
        "completion.csv": {"a.csv": f"prompt,completion\n{table}"},
        "completion.tsv": {"a.tsv": f"prompt\tcompletion\n{tabs}"},
        "preference.jsonl": {"a.jsonl": lines_of(better)},
        **{language: {"a.txt": text} for language, text in TEXT_OF.items()},
    }


def lines_of(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("name", list(clean_rows()))
def test_clean_data_of_every_shape_and_language_raises_nothing(tmp_path: Path, tokenizer: Path, name: str) -> None:
    host = Recorder()
    spec = PrepareSpec("d", upload_id="u", validation=0.2)
    prepared = prepare(fill(tmp_path / "in", clean_rows()[name]), spec, tokenizer, tmp_path / "out", host)
    assert kinds(prepared) == {}
    assert host.notes == []
    assert prepared.report.rows_kept == prepared.report.rows_read > 0


# Two revisions


def test_a_diff_compares_rows_whatever_split_they_stand_in(tmp_path: Path) -> None:
    before = [{"prompt": f"p{n}", "completion": "c"} for n in range(10)]
    after = [*before[2:], {"prompt": "new", "completion": "c"}]
    made(jsonl(tmp_path / "a", *before), tmp_path / "before", validation=0.3)
    made(jsonl(tmp_path / "b", *after), tmp_path / "after", validation=0.3, seed=7)
    found = diff(tmp_path / "before", tmp_path / "after", 20, Recorder())
    assert (found.added_rows, found.removed_rows, found.same_rows) == (1, 2, 8)
    assert (found.added, set(found.removed)) == (("new\nc",), {"p0\nc", "p1\nc"})
    few = diff(tmp_path / "before", tmp_path / "after", 1, Recorder())
    assert (few.removed_rows, len(few.removed)) == (2, 1)
