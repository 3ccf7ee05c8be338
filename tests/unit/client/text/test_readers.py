"""Each reader of text files against what is written about it; malformed rows are located, none is mended silently."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smolora import RowProblem
from smolora.common.text import lines
from smolora.common.text.csv import read_csv, read_table
from smolora.common.text.jsonl import read_jsonl
from smolora.common.text.rows import BadFile, Row, Rows
from smolora.common.text.txt import read_markdown, read_txt
from tests.examples import examples
from tests.unit.client.text.kit import LINES, TEXTS, read, texts

# Fields of an object beside its text; names that differ from it.
OTHERS = st.dictionaries(st.text(min_size=1).map("x{}".format), st.integers() | st.text() | st.none(), max_size=3)


def located(found: list[Row | RowProblem]) -> list[tuple[int, str]]:
    """Line and text of each row, line and `!` of each problem."""
    return [(one.line, one.text if isinstance(one, Row) else "!") for one in found]


def only_problem(found: list[Row | RowProblem]) -> RowProblem:
    """The one problem among rows."""
    (problem,) = [one for one in found if isinstance(one, RowProblem)]
    return problem


# Any bytes at all

PIECES = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"{",
    b"}",
    b'{"text": "',
    b"text",
    b"\\u",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b" ",
    "ä".encode(),
]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3)).map(b"".join))
@pytest.mark.parametrize("reader", [read_txt, read_jsonl, read_csv])
def test_whatever_a_file_holds_its_rows_are_clean_and_its_places_are_real(reader: Callable[..., Rows], content: bytes) -> None:
    try:
        found = read(reader, content)
    except BadFile:
        return  # the file as a whole, as its header names no such column
    places = [one.line for one in found]
    assert all(1 <= line <= len(content.splitlines()) for line in places)
    assert len(set(places)) == len(places)
    for one in found:
        if isinstance(one, Row):
            assert one.text == one.text.strip()
            assert "\0" not in one.text
            one.text.encode()


# txt


def test_txt_rows_are_the_stripped_lines_that_are_not_empty() -> None:
    found = read(read_txt, "\n  first \r\n\t\nsecond\rthird\n\nno end")
    assert found == [Row("first", "f", 2), Row("second", "f", 4), Row("third", "f", 5), Row("no end", "f", 7)]


@given(st.lists(LINES))
def test_txt_reads_what_python_reads(written: list[str]) -> None:
    content = "\n".join(written)
    expected = [stripped for line in io.StringIO(content, newline=None) if (stripped := line.strip())]
    assert texts(read(read_txt, content)) == expected


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\xff", b"\xc3\xa4", b"\0"])))
def test_every_line_is_numbered_as_an_editor_does_whatever_stands_in_it(parts: list[bytes]) -> None:
    content = b"".join(parts)
    numbers = [n for n, line in enumerate(content.splitlines(), 1) if line]
    assert [one.line for one in read(read_txt, content)] == numbers


def test_a_byte_order_mark_is_left_out_at_the_beginning_alone() -> None:
    assert texts(read(read_txt, b"\xef\xbb\xbfone\n\xef\xbb\xbftwo")) == ["one", "\ufefftwo"]
    assert texts(read(read_jsonl, b'\xef\xbb\xbf{"text": "one"}')) == ["one"]
    assert texts(read(read_csv, b"\xef\xbb\xbftext\none\n")) == ["one"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_named_as_such(encoding: str) -> None:
    content = "\ufefftext".encode(encoding) if encoding == "utf-16-be" else "text".encode(encoding)
    with pytest.raises(BadFile, match=r"f:1 .*UTF-16; save the file as UTF-8") as caught:
        read(read_txt, content)
    assert caught.value.place == "f:1"


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-32", "UTF-32"), ("utf-16-le", "UTF-16, it seems"), ("utf-16-be", "UTF-16, it seems"),
     ("utf-32-le", "UTF-32, it seems"), ("utf-32-be", "UTF-32, it seems")],
)  # fmt: skip
def test_utf_32_and_what_has_no_byte_order_mark_is_named_too(encoding: str, name: str) -> None:
    with pytest.raises(BadFile, match=rf"f:1 is the beginning of a file in {name}; save the file as UTF-8"):
        read(read_txt, '{"text": "Größe"}\n'.encode(encoding))


def test_nul_alone_is_no_encoding() -> None:
    assert located(read(read_txt, bytes(40) + b"\na\0b\0cdefghijklmno\0\n")) == [(1, "!"), (2, "!")]


def test_a_byte_order_mark_within_jsonl_is_named() -> None:
    problem = only_problem(read(read_jsonl, b'{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n'))
    assert problem.line == 2
    assert problem.why == "begins with a byte order mark, as files do that were joined to others; remove it"


@pytest.mark.parametrize(
    ("bad", "why"),
    [(b"caf\xe9", "is not UTF-8: its byte 4 is 0xe9"), (b"a\0b", "holds a NUL character"), (b"\xed\xa0\x80", "is not UTF-8")],
)
def test_a_line_that_is_no_text_is_a_problem_at_its_place(bad: bytes, why: str) -> None:
    found = read(read_txt, b"good\n" + bad + b"\nfine\n")
    assert located(found) == [(1, "good"), (2, "!"), (3, "fine")]
    assert only_problem(found).why.startswith(why)
    assert located(read(read_jsonl, b'{"text": "good"}\n{"text": "' + bad + b'"}\n')) == [(1, "good"), (2, "!")]
    found = read(read_csv, b'id,text\n1,good\n2,"a\nb ' + bad + b'\nc"\n3,fine\n')
    assert located(found) == [(2, "good"), (4, "!"), (6, "fine")], (
        "the problem stands where the bytes do, not where the row begins"
    )


def test_a_line_that_is_too_long_is_a_problem_and_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"short\n" + b"x" * 1000 + b"\n" + b"12345678\n123456789\n" + b"y" * 1001)
    found = list(lines.read_lines(path, "f", 9))
    assert [(line.number, len(line.text), line.why is None) for line in found] == [
        (1, 6, True),
        (2, 10, False),
        (3, 9, True),
        (4, 10, False),
        (5, 10, False),
    ]
    assert found[1].why == "is longer than 9 bytes; break it into lines"


def test_the_limit_of_a_line_holds_a_book(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    path.write_bytes(
        b'{"text": "' + b"word " * 2**20 + b'"}\n{"text": "' + b"x" * lines.MAX_LINE_BYTES + b'"}\n{"text": "on"}\n'
    )
    found = list(read_jsonl(path, "f"))
    assert [one.line for one in found] == [1, 2, 3]
    assert isinstance(found[0], Row)
    assert "break it into lines" in only_problem(found).why


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("````md\n```\n\na\n```\n````\n\nb", ["````md\n```\n\na\n```\n````", "b"]),
        ("```py\na\n\n`````\n\nb", ["```py\na\n\n`````", "b"]),
        ("```a``` is code\n\nb\n\nc", ["```a``` is code", "b", "c"]),
        ("~~~ a`b ```\n\n```\n\n~~~\n\nb", ["~~~ a`b ```\n\n```\n\n~~~", "b"]),
        ("- a\n  ```\n  b\n\n  c\n  ```\n\nd", ["- a\n  ```\n  b\n\n  c\n  ```", "d"]),
        ("```\na\n\n``` b\n\nc\n```\n\nd", ["```\na\n\n``` b\n\nc\n```", "d"]),
    ],
)
def test_a_fence_of_markdown_is_closed_by_one_as_long(content: str, rows: list[str]) -> None:
    assert texts(read(read_markdown, content)) == rows


# jsonl


@given(st.lists(st.tuples(TEXTS, OTHERS)), st.booleans())
def test_jsonl_reads_what_json_writes(written: list[tuple[str, dict[str, object]]], ascii_only: bool) -> None:
    content = "".join(json.dumps({**others, "text": text}, ensure_ascii=ascii_only) + "\n" for text, others in written)
    assert texts(read(read_jsonl, content.encode("utf-8", "surrogatepass"))) == [text.strip() for text, _ in written]


def test_jsonl_leaves_out_empty_lines_and_keeps_the_line_numbers() -> None:
    assert located(read(read_jsonl, '\n{"text": " a "}\n\r\n  \n{"text": ""}')) == [(2, "a"), (5, "")]


def test_jsonl_may_have_space_around_an_object() -> None:
    assert located(read(read_jsonl, ' \t{"text": "a"}\n{"text": "b"}\t \n')) == [(1, "a"), (2, "b")]


def test_jsonl_takes_another_field() -> None:
    assert texts(read(read_jsonl, '{"body": "a", "text": 1}', "body")) == ["a"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": "a"', "is not JSON: Expecting ',' delimiter at column 13; write one JSON object a line"),
        ('  {"text": a}', "is not JSON: Expecting value at column 12; write one JSON object a line"),
        ('{"text": "a\tb"}', "is not JSON: Invalid control character at column 12; write one JSON object a line"),
        ('{"text": "a"} {"text": "b"}', "is not JSON: Extra data at column 15; write one JSON object a line"),
        ("plain text", "is not JSON: Expecting value at column 1; write one JSON object a line"),
        ('["a"]', 'holds an array, not an object; write one such as {"text": "..."}'),
        ('"a"', 'holds a string, not an object; write one such as {"text": "..."}'),
        ("7", 'holds a number, not an object; write one such as {"text": "..."}'),
        ("null", 'holds null, not an object; write one such as {"text": "..."}'),
        ('{"body": "a", "id": 1}', "has no field 'text': its fields are 'body', 'id'; name one as text_field (--text-field)"),
        ("{}", "has no field 'text': it has no fields; name one as text_field (--text-field)"),
        ('{"text": 7}', "has a number in 'text', not text; put it in quotes or remove the row"),
        ('{"text": null}', "has null in 'text', not text; put it in quotes or remove the row"),
        ('{"text": ["a"]}', "has an array in 'text', not text; put it in quotes or remove the row"),
        ('{"text": true}', "has true or false in 'text', not text; put it in quotes or remove the row"),
        ('{"text": "a", "text": "b"}', "has the field 'text' twice; keep one of them"),
        ('{"text": "\\u0000"}', "holds a NUL character, as damaged files do; remove it"),
        ('{"text": "\\ud83d"}', "holds \\ud83d, one half of a character; write the whole character"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply to be read; flatten it"),
        ('{"text": ' + "1" * 5000 + "}", "holds a number of too many digits; put it in quotes or shorten it"),
    ],
)
def test_jsonl_locates_a_malformed_line_and_says_how_to_mend_it(line: str, why: str) -> None:
    found = read(read_jsonl, '{"text": "before"}\n\n' + line + '\n{"text": "after"}\n')
    assert located(found) == [(1, "before"), (3, "!"), (4, "after")]
    problem = only_problem(found)
    assert (problem.file, problem.line, problem.why) == ("f", 3, why)


def test_names_in_a_message_are_bounded_and_printable() -> None:
    content = json.dumps({f"\ud800{n:04}" + "x" * 1000: 1 for n in range(1000)})
    why = only_problem(read(read_jsonl, content)).why
    assert len(why.encode()) < 1500
    assert "and 988 more" in why


# csv


# Python 3.11 writes a lone CR unquoted where the lines end in LF, so LF goes with quotes around everything.
@given(st.lists(st.tuples(TEXTS, TEXTS)), st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL)]))
@example([("a,b", 'say "yes"\r\nor\rno\n')], ("\r\n", csv.QUOTE_MINIMAL))
def test_csv_reads_what_csv_writes(written: list[tuple[str, str]], form: tuple[str, Literal[0, 1]]) -> None:
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator=form[0], quoting=form[1])
    writer.writerows([("id", "text"), *written])
    assert texts(read(read_csv, content.getvalue())) == [text.strip() for _, text in written]


def test_csv_places_a_row_at_the_line_where_it_begins() -> None:
    content = 'text,id\r\n"two\r\nlines",1\r\n\r\n"a, ""b""",2\r\n"three\n\nlines",3\r\nlast,4'
    assert read(read_csv, content) == [
        Row("two\r\nlines", "f", 2),
        Row('a, "b"', "f", 5),
        Row("three\n\nlines", "f", 6),
        Row("last", "f", 9),
    ]


def test_csv_reads_a_field_far_longer_than_the_library_s_own_limit() -> None:
    assert [len(text) for text in texts(read(read_csv, "text\n" + "x" * 500_000))] == [500_000]


@pytest.mark.parametrize(
    ("record", "lines_of_record", "why"),
    [
        ("1", 1, "has 1 value where the header names 2; add what is missing"),
        ("1,a,b", 1, "has 3 values where the header names 2; put values that hold the separator in quotes"),
        ('1,"a\nb",c', 2, "has 3 values where the header names 2; put values that hold the separator in quotes"),
        ('1,"a" b', 1, "has text behind a closing quote; double the quotes within a value"),
    ],
)
def test_csv_locates_a_malformed_row_and_goes_on(record: str, lines_of_record: int, why: str) -> None:
    found = read(read_csv, f'id,text\n0,"be\nfore"\n{record}\n2,after\n')
    assert located(found) == [(2, "be\nfore"), (4, "!"), (4 + lines_of_record, "after")]
    problem = only_problem(found)
    assert (problem.file, problem.line, problem.why) == ("f", 4, why)


def test_csv_finds_the_quote_that_is_never_closed() -> None:
    found = read(read_csv, 'id,text\n0,before\n1,"open\n2,after\n')
    assert located(found) == [(2, "before"), (3, "!")]
    assert only_problem(found).why == "opens a quote that is never closed, and so takes the lines up to 4 with it; close it"


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        ("", 1, "is missing, as the file is empty"),
        ("\n\r\n", 1, "is missing, as the file is empty"),
        ("\nid,body\n1,a\n", 2, "has no column 'text': its columns are 'id', 'body'; name one as text_field (--text-field)"),
        ("text,id,text\na,1,b\n", 1, "names the column 'text' 2 times; rename all but one"),
        ('id,"text" x\n', 1, "has text behind a closing quote"),
        (b"id,te\xffxt\n", 1, "is not UTF-8"),
    ],
)
def test_csv_refuses_a_file_without_a_header_that_names_the_column(content: str | bytes, line: int, why: str) -> None:
    with pytest.raises(BadFile) as caught:
        read(read_csv, content)
    assert str(caught.value).startswith(f"f:{line} {why}")
    assert caught.value.place == f"f:{line}"


def test_csv_ignores_space_around_column_names() -> None:
    assert texts(read(read_csv, "id, text\n1, a \n")) == ["a"]


@pytest.mark.parametrize(
    ("content", "delimiter", "rows"),
    [
        ('text\tid\n"Wow" he said to me\t1\n"Unclosed begins here\t2\nlast\t3\n', "\t",
         ['"Wow" he said to me', '"Unclosed begins here', "last"]),
        ('text\tid\n"Unclosed\t1\nand closed"\t2\n', "\t", ['"Unclosed', 'and closed"']),
        ('text\tid\n"a\tb"\t1\n"two\nlines"\t2\n', "\t", ["a\tb", "two\nlines"]),
        ('text\tid\n"a"\t1\n"b"\t2\n"c" d\t3\n', "\t", ["a", "b", "!"]),
        ('text\n"two\nlines"\n"open\n', "\t", ["two\nlines", "!"]),
        ('"id", "text"\n"1", "a, b"\n"2", "c"\n', "", ["a, b", "c"]),
        ('"id", "text"\n"1", "a"\n', "", ["a"]),
        ('id,text\n1,"say \\"yes\\", or no"\n2,b\n', "", ['say "yes", or no', "b"]),
        ('id,text\n1,"C:\\"\n2,\\n\n', "", ["C:\\", "\\n"]),
        ('id,text\n1," ""a"""\n', "", ['"a"']),
    ],
)  # fmt: skip
def test_csv_takes_the_way_of_quoting_that_loses_the_fewest_rows(content: str, delimiter: str, rows: list[str]) -> None:
    found = read(read_csv, content, "text", delimiter)
    assert [one.text if isinstance(one, Row) else "!" for one in found] == rows


def test_csv_keeps_the_space_before_a_value_where_none_stands_before_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\n2+2?, 4\n")
    assert [one.fields for one in read_table(path, "f") if not isinstance(one, RowProblem)] == [
        {"prompt": "2+2?", "completion": " 4"}
    ]


def test_csv_gives_the_rows_before_the_place_where_a_packed_file_breaks_off(tmp_path: Path) -> None:
    content = "text,n\n" + "".join(f"{hashlib.sha256(bytes([n])).hexdigest()},{n}\n" for n in range(90))
    (path := tmp_path / "a.csv.gz").write_bytes(gzip.compress(content.encode())[:-400])
    found: list[Row | RowProblem] = []
    with pytest.raises(BadFile) as caught:
        found.extend(read_csv(path, "f"))
    assert caught.value.line == len(found) + 2 > 20


# How CSV is quoted

BACKSLASHES = [r'"Simplify \frac{2}{4} please","It is \frac{1}{2}."', r'"Where?","In C:\new\table"', r'"A \\ stays, once","\\"']
SAID = r'"Say \"done\", then stop","done"'
READ = [
    [r"Simplify \frac{2}{4} please", r"It is \frac{1}{2}."],
    ["Where?", r"In C:\new\table"],
    ["A \\ stays, once", "\\"],
]


def table_of(rows: list[str], tmp_path: Path) -> list[list[str] | str]:
    (tmp_path / "a.csv").write_text("\n".join(["prompt,completion", *rows]) + "\n", newline="")
    found = read_table(tmp_path / "a.csv", "f")
    return [one.why if isinstance(one, RowProblem) else list(one.fields.values()) for one in found]


@pytest.mark.parametrize("at", [0, 2, 99, 100, 101, 250])
def test_csv_unescapes_quotes_alone_wherever_the_first_of_them_stands(tmp_path: Path, at: int) -> None:
    rows = [*(BACKSLASHES[n % 3] for n in range(at)), SAID, *BACKSLASHES]
    expected = [*(READ[n % 3] for n in range(at)), ['Say "done", then stop', "done"], *READ]
    assert table_of(rows, tmp_path) == expected


def test_csv_keeps_every_backslash_of_a_file_without_escaped_quotes(tmp_path: Path) -> None:
    rows = [r'"C:\","a \\ b"', r"\N,\n", r'"""C:\""",x']
    assert table_of(rows, tmp_path) == [["C:\\", "a \\\\ b"], [r"\N", r"\n"], ['"C:\\"', "x"]]


def test_csv_s_reading_does_not_change_for_one_broken_row(tmp_path: Path) -> None:
    rows = [SAID, "too,many,values", SAID, *BACKSLASHES]
    found = table_of(rows, tmp_path)
    assert "has 3 values where the header names 2" in found[1]
    assert found[2:] == [['Say "done", then stop', "done"], *READ]


VALUES = st.text(st.sampled_from('a\\", \n'), max_size=6)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=130), st.permutations(range(130)))
@settings(max_examples=examples(60), deadline=None)
def test_a_row_of_csv_is_read_alike_wherever_it_stands(rows: list[tuple[str, str]], order: list[int]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [",".join(map(quoted, row)) for row in rows if any(row)]
    moved = [at for at in order if at < len(lines)]
    if not lines:
        return
    with tempfile.TemporaryDirectory() as folder:
        first = table_of(lines, Path(folder))
        other = table_of([lines[at] for at in moved], Path(folder))
    assert other == [first[at] for at in moved]


def test_excel_s_first_line_tells_the_separator(tmp_path: Path) -> None:
    for first in ("sep=;\n", "SEP=;\r\n", '"sep=;"\n'):
        found = read(read_csv, f"{first}id;text\n1;a, b\n")
        assert [(one.text, one.line) for one in found if isinstance(one, Row)] == [("a, b", 3)]
    assert texts(read(read_csv, "sep=|\nid|text\n1|a;b\n")) == ["a;b"]
