"""A cache that is damaged in any way is made again, once, or the model loads the slow way: it always loads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from smolora.common.paths import cache_path
from smolorad import publish
from smolorad.domain import Dtype, Precision
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.blueprint import BLUEPRINT
from smolorad.engine.runtime.cache_folder import read_or_make
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.worker import starter
from smolorad.engine.worker.starter import ensure_starter
from tests.examples import examples
from tests.mutations import Mutation, contained, copied, damage, mutations
from tests.powerless import powerless
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, load, spec

Spoil = Callable[[Path], object]

pytestmark = pytest.mark.hypothesis


@pytest.fixture(autouse=True)
def _cache(own_cache: Path) -> None:
    """A cache of the test's own."""


def light(folder: Path, precision: Precision = Precision.EXACT) -> BaseModel:
    base = load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=Hardware(cpu_bfloat16=True), precision=precision)
    assert base.native is not None
    return base


def said(base: BaseModel) -> object:
    return finish(begin(base, spec("The quick brown fox", max_tokens=4)))[1].token_ids


def test_any_file_of_a_blueprint(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    expected = said(light(folder))
    (made,) = (cache_path() / "blueprints").iterdir()
    whole = tmp_path / "whole"
    shutil.copytree(made, whole)
    about = publish.read_manifest(whole)["files"]

    @damage(40)
    @given(mutations(whole))
    def run(mutation: Mutation) -> None:
        with copied(whole, made) as copy:
            mutation.apply(copy)
            base = light(folder)
            assert base.runner is None, "it was loaded the slow way"
            assert said(base) == expected
            assert publish.verify(made)["files"] == about
        assert list(made.parent.iterdir()) == []

    run()


def as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


def as_link(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path.parent / "nowhere")


def other_layers(path: Path) -> None:
    text = (path / BLUEPRINT).read_text()
    (path / BLUEPRINT).write_text(text.replace('"layers":2', '"layers":7'))


def with_sums(path: Path) -> None:
    """It parses, and its manifest agrees."""
    (path / BLUEPRINT).write_text('{"architecture":1}')
    (path / publish.MANIFEST).unlink()
    stage = path.with_name("stage")
    path.rename(stage)
    publish.publish(stage, path, {})


SPOILS: list[Spoil] = [
    as_file,
    as_link,
    shutil.rmtree,
    other_layers,
    with_sums,
    lambda path: (path / "extra").mkdir(),
    lambda path: [one.unlink() for one in path.iterdir()],
    lambda path: as_file(path.parent),
    lambda path: (path / publish.MANIFEST).write_text("{}"),
    lambda path: (path / BLUEPRINT).chmod(0),
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_whatever_is_wrong_with_a_folder(spoil: Spoil, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    expected = said(light(folder))
    (made,) = (cache_path() / "blueprints").iterdir()
    spoil(made)
    base = light(folder)
    assert (base.runner, said(base)) == (None, expected)
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    publish.verify(made)


def test_a_blueprint_that_is_damaged_after_it_was_read(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    base = light(folder)
    (made,) = (cache_path() / "blueprints").iterdir()
    (made / "config.json").write_text("{")
    assert base.transformers_model().model.config.num_hidden_layers == 2


def test_caches_that_cannot_be_written_leave_the_slow_way(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", hidden_size=64)
    shutil.rmtree(cache_path())
    cache_path().write_text("a file")
    base = load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=Hardware(cpu_bfloat16=True))
    assert base.runner is not None
    assert said(base)


def test_a_place_for_parked_weights_that_is_a_file(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", hidden_size=64)
    expected = said(light(folder, Precision.INT8))
    shutil.rmtree(cache_path() / "weights")
    (cache_path() / "weights").write_text("a file")
    assert said(light(folder, Precision.INT8)) == expected


OPENS = """
import sys
from pathlib import Path
from smolorad.engine.native.build import library
assert library(Path(sys.argv[1]), 1) is not None
"""


# Each is a compilation.
@pytest.mark.parametrize("part", [0.9, *(pytest.param(part, marks=pytest.mark.long) for part in (0.0, 0.1, 0.5, 0.999))])
def test_a_native_library_that_is_cut_is_built_again(part: float) -> None:
    (made,) = (cache_path() / "native").iterdir()
    (path,) = (path for path in made.iterdir() if path.name != publish.MANIFEST)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    done = subprocess.run([sys.executable, "-c", OPENS, str(cache_path())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    publish.verify(made)


def test_any_file_of_the_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tmp_path / "model")

    def make(stage: Path, report: object) -> Path:
        shutil.copytree(model, stage / "model")
        return stage / "model"

    monkeypatch.setattr(starter, "_make", make)
    made = ensure_starter(tmp_path)
    whole = tmp_path / "whole"
    shutil.copytree(made, whole)
    files = publish.read_manifest(whole)["files"]

    @damage(80)
    @given(mutations(whole))
    def run(mutation: Mutation) -> None:
        with copied(whole, made) as copy:
            mutation.apply(copy)
            assert contained(lambda: ensure_starter(tmp_path)) is None
            assert publish.verify(made)["files"] == files

    run()


def test_any_folder(tmp_path: Path) -> None:
    folder, whole = tmp_path / "things" / "thing", tmp_path / "whole"

    def make(stage: Path) -> None:
        (stage / "a.json").write_text('{"a": {"b": [1, 2]}, "c": "d"}')
        (stage / "b.txt").write_text("text")

    def read(whole: Path) -> bytes:
        return (whole / "a.json").read_bytes() + (whole / "b.txt").read_bytes()

    expected = read_or_make(folder, make, read)
    shutil.copytree(folder, whole)

    @damage(100)
    @given(mutations(whole))
    def run(mutation: Mutation) -> None:
        with copied(whole, folder) as copy:
            mutation.apply(copy)
            assert read_or_make(folder, make, read) == expected

    run()


RACES = """
import sys
from pathlib import Path
from smolorad.engine.runtime.cache_folder import read_or_make

def make(stage):
    for name in "abcde":
        (stage / name).write_text(name)

def read(whole):
    return "".join((whole / name).read_text() for name in "abcde")

sys.stdin.read(1)
for number in range(int(sys.argv[2])):
    assert read_or_make(Path(sys.argv[1], str(number), "thing"), make, read) == "abcde"
"""


def test_several_processes_that_make_the_same_folder_again(tmp_path: Path) -> None:
    places, count = tmp_path / "places", examples(200)
    for number in range(count):
        (places / str(number) / "thing").mkdir(parents=True)
        (places / str(number) / "thing" / publish.MANIFEST).write_text("{}")
    command = [sys.executable, "-c", RACES, str(places), str(count)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    for process in processes:
        _, told = process.communicate()
        assert process.returncode == 0, told
    assert {tuple(one.name for one in place.iterdir()) for place in places.iterdir()} == {("thing",)}


def test_folders_that_changed_places(tmp_path: Path) -> None:
    """Each is whole, and what it has is another's."""
    ours, theirs = tmp_path / "things" / "ours", tmp_path / "things" / "theirs"

    def thing(folder: Path) -> str:
        return read_or_make(
            folder, lambda stage: (stage / "a").write_text(folder.name) and None, lambda whole: (whole / "a").read_text()
        )

    assert [thing(ours), thing(theirs)] == ["ours", "theirs"]
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    assert [thing(ours), thing(theirs)] == ["ours", "theirs"]
    ours.rename(tmp_path / "other")
    ours.symlink_to(theirs)
    assert [thing(ours), thing(theirs)] == ["ours", "theirs"]
    (ours / publish.MANIFEST).unlink()
    stage = tmp_path / "things" / "stage"
    ours.rename(stage)
    publish.publish(stage, ours, {})  # as earlier releases did
    made = ours.stat().st_ino
    assert (thing(ours), ours.stat().st_ino) == ("ours", made)


def test_what_cannot_be_made_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "things" / "thing"

    def fail(stage: Path) -> None:
        raise OSError("no disk")

    folder.mkdir(parents=True)
    (folder / "a").write_text("damaged")
    with pytest.raises(OSError, match="no disk"):
        read_or_make(folder, fail, lambda whole: whole)
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]
    assert (
        read_or_make(folder, lambda stage: (stage / "a").write_text("new") and None, lambda whole: (whole / "a").read_text())
        == "new"
    )
    assert read_or_make(folder, fail, lambda whole: (whole / "a").read_text()) == "new"


@pytest.mark.parametrize("name", ["manifest.json", "a.txt"])
def test_a_folder_of_the_cache_whose_files_may_not_be_read_is_made_again(tmp_path: Path, name: str) -> None:
    script = """
import sys
from pathlib import Path
from smolorad.engine.runtime.cache_folder import read_or_make

folder, name = Path(sys.argv[1]), sys.argv[2]
made = []

def make(stage):
    made.append(stage)
    (stage / "a.txt").write_text("whole")

for _ in range(3):
    assert read_or_make(folder, make, lambda found: (found / "a.txt").read_text()) == "whole"
    (folder / name).chmod(0)
assert len(made) == 3, made
"""
    command = [*powerless(), sys.executable, "-c", script, str(tmp_path / "things" / "thing"), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
