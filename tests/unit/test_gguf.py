"""Which GGUF files a path means, and that no other kind of file at its place does harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smolorad.errors import Damaged, SmoloraError, UnsupportedModel
from smolorad.gguf import gguf_files, is_gguf
from smolorad.residency.resolver import _check_path
from tests.powerless import closed, powerless


def put(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"GGUF")
    return [folder / name for name in names]


def shards(count: int, stem: str = "model") -> list[str]:
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def test_a_file_by_its_name_or_its_first_bytes(tmp_path: Path) -> None:
    (named, unnamed) = put(tmp_path, "model.gguf", "blob")
    other = tmp_path / "other"
    other.write_bytes(b"GGML")
    empty = tmp_path / "empty"
    empty.touch()
    assert [is_gguf(path) for path in (named, unnamed, other, empty, tmp_path, tmp_path / "none")] == [True, True, *[False] * 4]
    assert gguf_files(unnamed) == (unnamed,)
    assert gguf_files(other) == ()


def test_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "one", "model-Q4_K_M.gguf", "mmproj-model-f16.gguf", "model.mmproj.gguf")
    assert [path.name for path in gguf_files(tmp_path / "one")] == ["model-Q4_K_M.gguf"]
    put(tmp_path / "projector", "mmproj-model-f16.gguf")
    assert gguf_files(tmp_path / "projector") == ()
    put(tmp_path / "both", "model.gguf")
    (tmp_path / "both" / "model.safetensors").touch()
    assert gguf_files(tmp_path / "both") == ()
    put(tmp_path / "several", *(f"model-Q{bits}.gguf" for bits in range(2, 9)))
    with pytest.raises(UnsupportedModel, match=r"several GGUF models \(model-Q2.gguf, .*model-Q6.gguf, \.\.\.\); name one of"):
        gguf_files(tmp_path / "several")


def test_a_model_of_several_files(tmp_path: Path) -> None:
    names = shards(3)
    paths = tuple(put(tmp_path, *names))
    for given in (*paths, tmp_path):
        assert gguf_files(given) == paths
    paths[2].unlink()
    with pytest.raises(Damaged, match=rf"is one of 3 files, and {names[2]} is missing beside it; download all of them"):
        gguf_files(paths[0])
    paths[0].unlink()
    with pytest.raises(Damaged, match=rf"{names[0]} and 1 more is missing beside it"):
        gguf_files(tmp_path)


@pytest.mark.parametrize("name", ["model-00005-of-00003.gguf", "model-00000-of-00000.gguf", "model-00000-of-00003.gguf"])
def test_a_number_that_no_file_of_several_has(name: str, tmp_path: Path) -> None:
    (path,) = put(tmp_path, name)
    put(tmp_path, *shards(3))
    assert gguf_files(path) == (path,)


def test_two_models_of_several_files(tmp_path: Path) -> None:
    put(tmp_path, *shards(2), *shards(2, "other"))
    with pytest.raises(UnsupportedModel, match="several GGUF models"):
        gguf_files(tmp_path)


def test_what_only_looks_like_a_file(tmp_path: Path) -> None:
    pipe, folder, loop, gone = (tmp_path / f"{name}.gguf" for name in ("pipe", "folder", "loop", "gone"))
    os.mkfifo(pipe)
    folder.mkdir()
    loop.symlink_to(loop)
    gone.symlink_to(tmp_path / "nowhere")
    assert gguf_files(tmp_path) == ()
    (inside,) = put(folder, "model.gguf")
    assert gguf_files(folder) == (inside,)
    for path in (pipe, loop, gone, tmp_path):
        assert not is_gguf(path)
        with pytest.raises(SmoloraError) as caught:
            _check_path(path)
        assert caught.value.message.isprintable()
    assert _check_path(folder)


_CHECK = """
import pathlib, sys
from smolorad.errors import SmoloraError
from smolorad.residency.resolver import _check_path
for path in sys.argv[1:]:
    try:
        print("read", _check_path(pathlib.Path(path)))
    except SmoloraError as error:
        print(type(error).__name__, error.message)
"""


def test_what_may_not_be_read(tmp_path: Path) -> None:
    paths = [*put(tmp_path, "model.gguf", "blob"), tmp_path / "folder"]
    put(paths[2], "model.gguf")
    with closed(paths[0]), closed(paths[1]), closed(paths[2]):
        command = [*powerless(), sys.executable, "-c", _CHECK, *map(str, paths), str(paths[2] / "model.gguf")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 4
    for path, line in zip(paths, said, strict=False):
        assert line.startswith(f"NoAccess {path}")
        assert "may not be used by the daemon (Permission denied)" in line
    assert said[3].startswith("NoAccess ")
