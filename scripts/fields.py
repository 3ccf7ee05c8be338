"""Writes clients/python/smolora/_fields.py: the settings a user may give, with the contract's comments as their help.

The command line makes its flags of it and the client its keywords: neither has a list of its own. scripts/proto.sh calls it.

usage: scripts/fields.py [OUTPUT_ROOT]     (default: the repository)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path("clients/python/smolora/_fields.py")
# Group → the file and the message it comes from, and the fields that are no setting.
GROUPS = {
    "LORA": ("settings", "LoraSettings", ()),
    "TRAINER": ("settings", "TrainerSettings", ()),
    "SAMPLING": ("generation", "Sampling", ()),
    "PREPARE": (
        "datasets",
        "PrepareDatasetRequest",
        ("name", "upload_id", "hub", "request_id", "source_fingerprint"),
    ),
}
# Keywords → their line, the groups that they come from, and what each type ends in.
KEYWORDS = {
    "TrainKeywords": ("The settings of `train`: PEFT's and TRL's names.", ("LORA", "TRAINER"), ""),
    "SamplingKeywords": ("How `generate` chooses tokens: transformers' and OpenAI's names.", ("SAMPLING",), " | None"),
    "PrepareKeywords": ("The settings of `prepare`.", ("PREPARE",), " | None"),
}
KINDS = {"int32": "int", "int64": "int", "double": "float", "string": "str", "bool": "bool"}
MAPS = {"map<string, int32>": "map", "map<int32, double>": "floats", "map<string, string>": "names"}
TYPES = {"strs": "Iterable[str]", "ints": "Iterable[int]", "map": "Mapping[str, int]", "floats": "Mapping[int, float]"}
TYPES |= {"names": "Mapping[str, str]"}

HEAD = '''"""The settings a user may give. GENERATED from proto/ by scripts/fields.py."""

# fmt: off
# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class Field:
    """One setting: its name in the contract, its kind, and the contract's comment.

    The kind is int, float, str, bool, strs, ints, map (numbers by name), names (names by name), floats (numbers by id), or
    the choices, as `fail|drop`.
    """

    name: str
    kind: str
    help: str

'''


def fields_of(proto: str, message: str) -> Iterator[tuple[str, str, str]]:
    """Name, kind and comment of each scalar field of a message."""
    body = re.search(rf"^message {message} {{\n(.*?)^}}", proto, re.DOTALL | re.MULTILINE)
    if body is None:
        raise SystemExit(f"scripts/fields.py: there is no message {message}")
    comment: list[str] = []
    for line in body[1].splitlines():
        text = line.strip()
        if text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
            continue
        if field := re.fullmatch(r"(optional |repeated )?(map<\w+, \w+>|\w+) (\w+) = \d+;", text):
            label, kind, name = field.groups()
            if kind in MAPS:
                kind = MAPS[kind]
            elif kind in KINDS:
                kind = KINDS[kind] + ("s" if label == "repeated " else "")
            else:
                kind = "|".join(choices_of(proto, kind))
            yield name, kind, " ".join(comment)
        comment = []


def choices_of(proto: str, enum: str) -> list[str]:
    """The values of an enum as a user writes them: `fail`, `drop`."""
    body = re.search(rf"^enum {enum} {{\n(.*?)^}}", proto, re.DOTALL | re.MULTILINE)
    if body is None:
        return []
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum).upper() + "_"
    values = re.findall(rf"^  {prefix}(\w+) = (\d+);", body[1], re.MULTILINE)
    return [name.lower() for name, number in values if number != "0"]


def quoted(text: str) -> str:
    """The text as a literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def render() -> str:
    """The whole file."""
    parts = [HEAD]
    fields: dict[str, list[tuple[str, str, str]]] = {}
    for group, (file, message, skipped) in GROUPS.items():
        proto = (ROOT / f"proto/smolora/v1/{file}.proto").read_text(encoding="utf-8")
        fields[group] = [row for row in fields_of(proto, message) if row[0] not in skipped]
        lines = "".join(
            f"    Field({quoted(name)}, {quoted(kind)}, {quoted(help_text)}),\n" for name, kind, help_text in fields[group]
        )
        parts.append(f"\n{group}: tuple[Field, ...] = (\n{lines})\n")
    for name, (line, groups, ending) in KEYWORDS.items():
        parts.append(keywords_class(name, line, [row for group in groups for row in fields[group]], ending))
    return "".join(parts)


def keywords_class(name: str, line: str, rows: list[tuple[str, str, str]], ending: str) -> str:
    """The keywords of a method of the client, for type checkers and editors."""
    lines = "".join(f"    {field}: {type_of(kind)}{ending}  # {help_text}\n" for field, kind, help_text in rows)
    return f'\n\nclass {name}(TypedDict, total=False):\n    """{line}"""\n\n{lines}'


def type_of(kind: str) -> str:
    """The annotation of a keyword."""
    return "str" if "|" in kind else TYPES.get(kind, kind)


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT) / TARGET
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
