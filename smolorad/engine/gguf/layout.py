"""Where each of transformers' parameters lies in GGUF files: in which tensors, in which of their rows, in which order.

The layout is made once per model (`find_parameters.py`) and kept beside the model's config. Reading weights takes nothing else:
neither the header, nor tables of names, nor torch.
"""

from __future__ import annotations

import msgspec

LAYOUT = "gguf.json"  # the file in a model's folder


class Source(msgspec.Struct, frozen=True):
    """A tensor in one of the files."""

    file: int
    type: int  # ggml's number of its format
    begin: int  # bytes
    rows: int
    columns: int
    row_nbytes: int


class Part(msgspec.Struct, frozen=True):
    """Some rows of a tensor, one after the other."""

    tensor: str
    first: int
    count: int
    pairs: int = 0  # in each piece of twice as many rows, neighbours are the halves' rows of one place


class Parameter(msgspec.Struct, frozen=True):
    """What a parameter of transformers is made of: the rows of its parts; zeros where it has none."""

    shape: tuple[int, ...]
    format: str  # as safetensors names the numbers
    parts: tuple[Part, ...]
    offset: float = 0.0  # what the file's numbers have more
    transposed: bool = False  # the rows in the file are columns here


class File(msgspec.Struct, frozen=True):
    """A file as it was when the layout was made."""

    path: str
    size: int
    version: tuple[int, ...]
    sha256: str


class Layout(msgspec.Struct, frozen=True):
    """All parameters of a model, and the files that have them."""

    files: tuple[File, ...]
    sources: dict[str, Source]
    parameters: dict[str, Parameter]
