"""Each format of files, plain and packed, alone and mixed; what is damaged in them is told with its place."""

from __future__ import annotations

import gzip
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolora.common.text import lines
from smolora.common.text.rows import Record
from smolorad.chat.turns import Turn
from smolorad.corpus.arrow_file import DraftWriter, read_batches
from smolorad.corpus.file_types import infer
from smolorad.corpus.prepare import prepare
from smolorad.corpus.readers import tables
from smolorad.corpus.shapes import Sample
from smolorad.domain import FileType, OnError, Prepared, PrepareSpec, ProblemKind, Shape, TextUnit
from smolorad.errors import BadData, is_disk_full
from tests.unit.corpus.kit import Recorder, fill

ROWS = [{"text": "one, first", "n": 1}, {"text": 'two "second"\nline', "n": 2}]
TEXTS = [row["text"] for row in ROWS]


def made(files: Path, output: Path, **fields: Any) -> Prepared:
    """Prepares a folder; nothing is held out unless it is asked for."""
    spec = replace(PrepareSpec("d", upload_id="u", validation=0.0), **fields)
    return prepare(files, spec, None, output, Recorder())


def loaded(output: Path) -> list[dict[str, Any]]:
    """The rows, as plain `datasets` loads them."""
    return list(datasets.load_from_disk(str(output))["train"])


def texts(output: Path) -> list[str]:
    """The texts, as plain `datasets` loads them."""
    return [row["text"] for row in loaded(output)]


def jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def table(delimiter: str) -> bytes:
    return f'n{delimiter}text\n1{delimiter}"one, first"\n2{delimiter}"two ""second""\nline"\n'.encode()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def arrow(opener: Callable[..., Any]) -> bytes:
    rows, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    with opener(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


FORMATS: dict[str, Callable[[], bytes]] = {
    "a.jsonl": jsonl,
    "a.json": lambda: json.dumps(ROWS, indent=2).encode(),
    "a.csv": lambda: table(","),
    "semicolons.csv": lambda: table(";"),
    "bars.csv": lambda: table("|"),
    "a.tsv": lambda: table("\t"),
    "a.parquet": parquet,
    "a.arrow": lambda: arrow(pa.ipc.new_file),
    "stream.arrow": lambda: arrow(pa.ipc.new_stream),
}


def packed(content: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(content)
    return pa.compress(content, codec="zstd", asbytes=True) if ending else content  # type: ignore[no-any-return]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, ending: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{name}{ending}").write_bytes(packed(FORMATS[name](), ending))
    prepared = made(tmp_path / "in", tmp_path / "out")
    assert texts(tmp_path / "out") == TEXTS
    assert (prepared.shape, prepared.report.rows_read, prepared.report.files) == (Shape.TEXT, 2, 1)
    assert not list((tmp_path / "out").glob("unpacked*"))


def test_a_folder_may_hold_any_mixture(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"b.txt": "from txt", "c.md": "# From\n\nmarkdown", "d.csv": "text\nfrom csv\n"})
    (files / "a.jsonl.gz").write_bytes(gzip.compress(jsonl()))
    assert made(files, tmp_path / "out").report.files == 4
    assert texts(tmp_path / "out") == [*TEXTS, "from txt", "# From", "markdown", "from csv"]


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        (Shape.PROMPT_COMPLETION, {"prompt": "2+2?", "completion": " 4"}),
        (Shape.CHAT, {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}),
        (Shape.PREFERENCE, {"prompt": "2+2?", "chosen": "4", "rejected": "5"}),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_folder_has_the_columns_that_trl_calls_standard(
    tmp_path: Path, shape: Shape, row: dict[str, Any], ending: str
) -> None:
    files = fill(tmp_path / "in", {"a.jsonl": json.dumps(row)} if ending == "jsonl" else {})
    if ending == "parquet":
        files.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row]), files / "a.parquet")
    assert made(files, tmp_path / "out").shape is shape
    assert loaded(tmp_path / "out") == [row]
    # What was prepared can be prepared again.
    assert made(tmp_path / "out", tmp_path / "again").shape is shape
    assert loaded(tmp_path / "again") == [row]


# Plain text


TEXT = "---\ntitle: x\n---\none\nmore\n\n```py\na = 1\n\nb = 2\n```\n"


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("a.txt", None, ["one", "two", "three"]),
        ("a.txt", TextUnit.PARAGRAPH, ["one\ntwo", "three"]),
        ("a.txt", TextUnit.DOCUMENT, ["one\ntwo\n\n\nthree"]),
        ("a.md", None, ["one\nmore", "```py\na = 1\n\nb = 2\n```"]),
        ("a.md", TextUnit.LINE, ["one", "more", "```py", "a = 1", "b = 2", "```"]),
    ],
)
def test_a_row_of_text_is_a_line_a_paragraph_or_the_whole(
    tmp_path: Path, name: str, unit: TextUnit | None, expected: list[str]
) -> None:
    files = fill(tmp_path / "in", {name: TEXT if name.endswith(".md") else "one\ntwo\n \n\nthree\n"})
    made(files, tmp_path / "out", text_unit=unit)
    assert texts(tmp_path / "out") == expected


def test_a_paragraph_is_placed_where_it_begins_and_a_fault_takes_it_along(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"one\nb\xffd\n\nthree\n")
    prepared = made(tmp_path / "in", tmp_path / "out", text_unit=TextUnit.PARAGRAPH, on_error=OnError.DROP)
    assert texts(tmp_path / "out") == ["three"]
    ((problem),) = prepared.report.problems
    assert (problem.file, problem.line, problem.kind) == ("a.txt", 2, ProblemKind.ENCODING)


# Damage


def deep() -> str:
    return "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize(
    ("name", "content", "place", "words"),
    [
        ("a.json", '[{"text": "a"},\n{"text": }]', "a.json:2", "is not JSON"),
        ("a.json", '[{"text": "a"}\n{"text": "b"}]', "a.json:2", "a comma or the end of the array is missing"),
        ("a.json", '[{"text": "a"}', "a.json:1", "a comma or the end of the array is missing"),
        ("a.json", '{"text": "a"}\n["b"]', "a.json:2", "has text behind the end"),
        ("a.json", '{"text": "a"}\n{"text": "b"', "a.json:2", "is not JSON: Expecting ',' delimiter at column 13"),
        ("a.json", f'[{{"text": "a"}},\n{deep()}]', "a.json:2", "is nested too deeply"),
        ("a.json", b'[\n\n{"text": "\xff"}]', "a.json:3", "is not UTF-8"),
        ("a.jsonl", f'{{"text": "a"}}\n{{"text": {deep()}}}', "a.jsonl:2", "is nested too deeply"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "a.jsonl:2", "is not UTF-8"),
        ("a.txt", "ab".encode("utf-16"), "a.txt:1", "UTF-16; save the file as UTF-8"),
        ("a.csv", "text,n\na\n", "a.csv:2", "has 1 value where the header names 2"),
        ("a.parquet", "PAR1 nonsense", "a.parquet", "is not Parquet"),
        ("a.arrow", "nonsense", "a.arrow", "is not Arrow"),
        ("a.txt.gz", "nonsense", "a.txt.gz:1", "cannot be unpacked"),
        ("a.jsonl.zst", "nonsense", "a.jsonl.zst:1", "cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(jsonl() * 1000, mtime=0)[:20], "a.jsonl.gz:1", "cannot be unpacked"),
    ],
)
def test_damage_is_told_with_its_place_and_can_be_left_out(
    tmp_path: Path, name: str, content: str | bytes, place: str, words: str
) -> None:
    files = fill(tmp_path / "in", {"good.txt": "good"})
    (files / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BadData, match=words) as caught:
        made(files, tmp_path / "out")
    assert [violation.field for violation in caught.value.violations] == [place]
    assert not (tmp_path / "out").exists()
    report = made(files, tmp_path / "out", on_error=OnError.DROP).report
    assert "good" in texts(tmp_path / "out")
    assert report.rows_malformed == 1


def test_every_file_at_fault_is_told_and_what_is_lost_with_it(tmp_path: Path) -> None:
    cut = gzip.compress("".join(f"{n} {n * 7919 % 10_007}\n" for n in range(20_000)).encode())
    files = fill(
        tmp_path / "in",
        {"a.jsonl": '{"text": "a"}\n{}\n[]\n', "b.json": '[{"text": "b"},\n{]', "c.json": "{", "d.csv": "body\nd\n"},
    )
    (files / "e.txt.gz").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(BadData, match="6 rows are malformed in all") as caught:
        made(files, tmp_path / "out")
    places = [violation.field for violation in caught.value.violations]
    assert places[:5] == ["a.jsonl:2", "a.jsonl:3", "b.json:2", "c.json:1", "d.csv:1"]
    file, _, line = places[5].partition(":")
    assert file == "e.txt.gz"
    assert 1000 < int(line) < 20_000
    told = [violation.description.endswith("nothing behind it is read") for violation in caught.value.violations]
    assert told == [False, False, True, True, False, True]


def not_utf_8() -> pa.Table:
    """A table whose second text is not what its column says it is."""
    ends = array("i", [0, 1, 3, 4])
    return pa.table({"text": pa.StringArray.from_buffers(3, pa.py_buffer(ends), pa.py_buffer(b"a\xff\xfeb"))})


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_text_of_a_table_that_is_not_utf_8_is_told_with_its_row_and_can_be_left_out(tmp_path: Path, name: str) -> None:
    (files := tmp_path / "in").mkdir()
    if name == "a.parquet":
        pq.write_table(not_utf_8(), files / name)
    else:
        with pa.ipc.new_file(files / name, not_utf_8().schema) as writer:
            writer.write_table(not_utf_8())
    with pytest.raises(BadData, match=rf"^{name}:2 is not UTF-8: it has the byte 0xff"):
        made(files, tmp_path / "out")
    report = made(files, tmp_path / "out", on_error=OnError.DROP).report
    assert texts(tmp_path / "out") == ["a", "b"]
    assert [(one.line, one.kind) for one in report.problems] == [(2, ProblemKind.ENCODING)]


def test_a_parquet_file_that_is_damaged_in_its_middle_can_be_left_out(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"good.txt": "good"})
    (files / "a.parquet").write_bytes(parquet()[:4] + b"\xff" * 16 + parquet()[20:])
    with pytest.raises(BadData, match=r"^a\.parquet is not Parquet that can be read"):
        made(files, tmp_path / "out")
    assert made(files, tmp_path / "out", on_error=OnError.DROP).report.rows_malformed == 1


def test_bytes_are_no_text(tmp_path: Path) -> None:
    (files := tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": [b"a"]}), files / "a.parquet")
    with pytest.raises(BadData, match=r"^a\.parquet:1 has bytes in 'text', not text; make the column one of strings"):
        made(files, tmp_path / "out")


def test_a_line_of_100_mb_is_a_problem_and_never_held(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"b.txt": "after"})
    with (files / "a.txt").open("wb") as file:
        for _ in range(100):
            file.write(b"x" * 2**20)
    report = made(files, tmp_path / "out", on_error=OnError.DROP).report
    assert texts(tmp_path / "out") == ["after"]
    assert [(one.file, one.line, one.excerpt) for one in report.problems] == [("a.txt", 1, "x" * 80)]


@pytest.mark.parametrize("name", ["a.parquet", "a.json"])
def test_a_row_longer_than_a_line_may_be_is_a_problem_in_every_format(tmp_path: Path, name: str) -> None:
    files = fill(tmp_path / "in", {"b.txt": "after"})
    turns = [{"role": role, "content": "x" * 10 * 2**20} for role in ("user", "assistant")]
    if name == "a.parquet":
        pq.write_table(pa.table({"text": ["before", "x" * (lines.MAX_LINE_BYTES + 1)]}), files / name)
    else:
        (files / name).write_text(json.dumps([{"messages": turns}]))
    report = made(files, tmp_path / "out", on_error=OnError.DROP).report
    assert [(one.file, one.line) for one in report.problems] == [(name, 2 if name == "a.parquet" else 1)]
    assert report.problems[0].why == "is longer than 16,777,216 characters; break it up"


def test_long_rows_of_a_table_are_read_few_at_a_time(tmp_path: Path) -> None:
    rows = [str(n) + "x" * 2**20 for n in range(40)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet")
    held: list[int] = []

    def noted(batch: pa.RecordBatch, file: str, first: int) -> Any:
        held.append(batch.num_rows)
        return rows_of(batch, file, first)

    rows_of = tables.rows_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "rows_of", noted)
        found = list(tables.read_parquet(tmp_path / "a.parquet", "f", list))
    assert [one.fields["text"] for one in found if isinstance(one, Record)] == rows
    assert max(held) <= 8


def test_long_conversations_are_written_few_at_a_time(tmp_path: Path) -> None:
    turns = (Turn("user", "x" * 2**20), Turn("assistant", "y" * 2**20))
    with DraftWriter(tmp_path / "draft") as writer:
        for number in range(10):
            writer.append(Sample(Shape.CHAT, (turns,), "f", number))
    assert max(batch.num_rows for batch in read_batches(tmp_path / "draft")) <= 2


@pytest.mark.parametrize("element", ['{"text": "' + "x" * 2**25 + '"}', '{"n": [' + "1," * 2**24 + '1], "text": "a"}'])
def test_a_sound_element_that_is_too_long_is_told_as_such(tmp_path: Path, element: str) -> None:
    files = fill(tmp_path / "in", {"a.json": f'[{{"text": "a"}},\n{element}]'})
    with pytest.raises(BadData, match=r"^a\.json:2 is longer than 16,777,216 characters, or is never closed; break it up"):
        made(files, tmp_path / "out")


def test_that_conversations_are_not_cut_is_told(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    told = []
    for name, content in (("a.jsonl", json.dumps(row)), ("a.txt", "one two three")):
        spec = PrepareSpec("d", upload_id="u", validation=0.0, chunk_size=2)
        host = Recorder()
        prepare(fill(tmp_path / name, {name: content}), spec, None, tmp_path / "out", host)
        told.append(host.notes)
    assert told == [["Only rows of text are cut; --chunk-size changed nothing."], []]


def test_an_element_of_an_array_may_be_as_long_as_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x" * 600_000 + str(n)} for n in range(3)]
    made(fill(tmp_path / "in", {"a.json": json.dumps(rows)}), tmp_path / "out")
    assert texts(tmp_path / "out") == [row["text"] for row in rows]
    assert lines.MAX_LINE_BYTES == 16 * 2**20


class Vanishing(Recorder):
    """Takes a file away while the one before it is read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._checks = 0

    def check(self) -> None:
        self._checks += 1
        if self._checks > 1:
            self._path.unlink(missing_ok=True)


def test_a_folder_that_changes_while_it_is_read_ends_the_preparation(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "".join(f"{n}\n" for n in range(500)), "b.txt": "two"})
    spec = PrepareSpec("d", upload_id="u")
    with pytest.raises(BadData, match=r"b\.txt vanished while it was read; prepare the dataset again"):
        prepare(files, spec, None, tmp_path / "out", Vanishing(files / "b.txt"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[int]:
    """A limit on the size of files, which fails a write as a full disk does."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield 2**16
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path, full_disk: int) -> None:
    import resource

    files = fill(tmp_path / "in", {"a.txt": "".join(f"line {n}\n" for n in range(50_000))})
    resource.setrlimit(resource.RLIMIT_FSIZE, (full_disk, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(OSError, match="too large") as caught:
        made(files, tmp_path / "out")
    assert is_disk_full(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_delimiter_can_be_given(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.csv": "text:n\na, b:1\n"})
    made(files, tmp_path / "out", delimiter=":")
    assert texts(tmp_path / "out") == ["a, b"]
    assert infer(files).files[0].file_type is FileType.CSV


# Only what is needed is read


UNREADABLE = {
    "timestamp": pa.array([1, 10**18], pa.timestamp("us")),
    "date": pa.array([1, 10**7], pa.date32()),
    "duration": pa.array([1, 2**62], pa.duration("s")),
    "zone": pa.array([1, 2], pa.timestamp("us", tz="Mars/Base")),
    "within": pa.array([[{"made": 1}], [{"made": 10**18}]], pa.list_(pa.struct([("made", pa.timestamp("us"))]))),
}


def written(files: Path, name: str, table: pa.Table) -> Path:
    files.mkdir(parents=True, exist_ok=True)
    match name:
        case "a.parquet":
            pq.write_table(table, files / name)
        case "a.arrow":
            with pa.ipc.new_file(files / name, table.schema) as writer:
                writer.write_table(table)
        case "stream.arrow":
            with pa.ipc.new_stream(files / name, table.schema) as writer:
                writer.write_table(table)
        case "saved":
            datasets.Dataset(table).save_to_disk(str(files))
    return files


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow", "saved"])
@pytest.mark.parametrize("kind", list(UNREADABLE))
def test_a_column_that_is_not_needed_is_not_read(tmp_path: Path, kind: str, name: str) -> None:
    if name == "saved" and kind == "zone":
        pytest.skip("datasets itself refuses such a column")
    table = pa.table({"text": ["one", "two"], "made": UNREADABLE[kind], "text.raw": ["x", "y"]})
    host = Recorder()
    spec = PrepareSpec("d", upload_id="u", validation=0.0)
    prepare(written(tmp_path / "in", name, table), spec, None, tmp_path / "out", host)
    assert texts(tmp_path / "out") == ["one", "two"]
    assert host.notes == ["Not used: made, text.raw."]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow", "saved"])
def test_a_value_that_is_needed_and_cannot_be_read_is_its_row_s_problem(tmp_path: Path, name: str) -> None:
    table = pa.table({"prompt": ["a", "b"], "completion": ["c", "d"], "tools": UNREADABLE["within"]})
    table = table.set_column(2, "tools", pa.array([[], [{"made": 10**18}]], table["tools"].type))
    files = written(tmp_path / "in", name, table)
    with pytest.raises(BadData, match=r":2 has a value in 'tools' that cannot be read"):
        made(files, tmp_path / "out")
    report = made(files, tmp_path / "out", on_error=OnError.DROP).report
    assert (report.rows_kept, report.rows_malformed) == (1, 1)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_two_columns_of_one_name_are_refused_where_they_are_needed(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array([1]), pa.array([2])], ["text", "text", "n", "n"])
    written(tmp_path / "in", name, table)
    with pytest.raises(BadData, match=rf"^{name} names the column 'text' 2 times; rename all but one"):
        made(tmp_path / "in", tmp_path / "out")
    written(tmp_path / "in", name, table.select([0, 2, 3]))
    assert made(tmp_path / "in", tmp_path / "out").train_rows == 1


def test_two_columns_of_one_name_are_refused_in_a_csv_file_too(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.csv": "prompt,completion,prompt\na,b,c\n"})
    with pytest.raises(BadData, match=r"a\.csv:1 names the column 'prompt' 2 times"):
        made(files, tmp_path / "out")


def test_images_refuse_a_row_of_a_conversation_but_not_empty_ones(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"prompt": ["a", "b", "c"], "completion": ["d", "e", "f"]})
    images = pa.array([[], None, [{"bytes": b"png", "path": None}]], kind)
    files = written(tmp_path / "in", "a.parquet", table.append_column("images", images))
    with pytest.raises(BadData, match=r"a\.parquet:3 has media in 'images'"):
        made(files, tmp_path / "out")
    assert made(files, tmp_path / "out", on_error=OnError.DROP).train_rows == 2


# JSON that is lines


def test_a_json_file_of_lines_is_read_line_by_line(tmp_path: Path) -> None:
    rows = ['{"text": "a"}', '{"text": b}', '{"text": "c"}', "", '{"text": "d"},', '{"text": "e"}']
    report = made(fill(tmp_path / "in", {"a.json": "\n".join(rows)}), tmp_path / "out", on_error=OnError.DROP).report
    assert texts(tmp_path / "out") == ["a", "c", "e"]
    assert (report.rows_read, report.rows_malformed, [one.line for one in report.problems]) == (5, 2, [2, 5])


def test_objects_one_after_another_are_read_too(tmp_path: Path) -> None:
    content = json.dumps({"text": "a"}, indent=1) + "\n" + json.dumps({"text": "b"}, indent=1) + json.dumps({"text": "c"})
    made(fill(tmp_path / "in", {"a.json": content}), tmp_path / "out")
    assert texts(tmp_path / "out") == ["a", "b", "c"]
