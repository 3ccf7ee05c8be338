"""Names, revisions, pages; and what is rebuilt when the database is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from smolorad import publish
from smolorad.domain import (
    Adapter,
    Dataset,
    DatasetReport,
    Dtype,
    LoraSettings,
    MergeProof,
    Model,
    Origin,
    Ref,
    RowProblem,
    TrainerSettings,
)
from smolorad.errors import AlreadyExists, Damaged, NotFound
from smolorad.paths import Home
from smolorad.store.database import Database
from smolorad.store.library import Library
from smolorad.store.recover import adopt

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def dataset(name: str, revision: int, job_id: str = "", path: str = "") -> Dataset:
    """A dataset with every kind of value."""
    report = DatasetReport(rows_read=3, problems=(RowProblem("a.txt", 2, "why"),))
    return Dataset(
        name=name,
        revision=revision,
        create_time=NOW,
        train_rows=2,
        validation_rows=1,
        report=report,
        fingerprint="f" * 64,
        job_id=job_id,
        path=path,
    )


def adapter(name: str, revision: int, job_id: str = "") -> Adapter:
    """An adapter with every kind of value."""
    return Adapter(
        name=name,
        revision=revision,
        create_time=NOW,
        origin=Origin.TRAIN,
        base_model="starter",
        base_fingerprint="b" * 64,
        dataset="verses@1",
        job_id=job_id,
        lora=LoraSettings(target_modules=("q_proj",), alpha_pattern={"k_proj": 3}),
        trainer=TrainerSettings(),
        steps=10,
        train_loss=2.5,
        eval_loss_before=3.0,
        eval_loss_after=None,
        parameters=100,
        size_bytes=1000,
        path="/p",
        base_dtype=Dtype.BFLOAT16,
    )


def model(name: str, job_id: str = "", path: str = "") -> Model:
    """A model with every kind of value."""
    return Model(
        name=name,
        create_time=NOW,
        origin=Origin.MERGE,
        source="style@1",
        fingerprint="e" * 64,
        architecture="llama",
        parameters=7,
        size_bytes=14,
        path=path,
        merge_proof=MergeProof(4, 1e-6, 1e-3, 1.0),
        job_id=job_id,
    )


async def test_what_is_added_comes_back(library: Library) -> None:
    await library.add_dataset(dataset("verses", 1, "j1"))
    await library.add_adapter(adapter("style", 1, "j2"))
    await library.add_model(model("merged", "j3"))
    assert await library.dataset(Ref("verses")) == dataset("verses", 1, "j1")
    assert await library.adapter(Ref("style", 1)) == adapter("style", 1, "j2")
    assert await library.model("merged") == model("merged", "j3")
    assert await library.made_by("j1") == dataset("verses", 1, "j1")
    assert await library.made_by("j2") == adapter("style", 1, "j2")
    assert await library.made_by("j3") == model("merged", "j3")
    assert await library.made_by("") is None
    assert await library.made_by("j4") is None


async def test_a_name_means_its_newest_revision(library: Library) -> None:
    for revision in (1, 2, 10):
        await library.add_adapter(adapter("style", revision))
    assert (await library.adapter(Ref("style"))).revision == 10
    assert (await library.adapter(Ref("style", 2))).revision == 2


async def test_a_taken_name_is_refused(library: Library) -> None:
    await library.add_adapter(adapter("style", 1))
    await library.add_model(model("style"))  # another kind may have the same name
    with pytest.raises(AlreadyExists, match="style@1"):
        await library.add_adapter(adapter("style", 1))
    with pytest.raises(AlreadyExists, match="a model style"):
        await library.add_model(model("style"))


async def test_a_removed_revision_is_never_given_again(library: Library) -> None:
    assert await library.next_revision("adapter", "style") == 1
    for revision in (1, 2):
        await library.add_adapter(adapter("style", revision))
    assert [one.revision for one in await library.remove_adapter(Ref("style", 2))] == [2]
    assert await library.next_revision("adapter", "style") == 3
    assert [one.revision for one in await library.remove_adapter(Ref("style"))] == [1]
    assert await library.next_revision("adapter", "style") == 3
    assert await library.next_revision("dataset", "style") == 1


async def test_what_is_not_there_names_what_is(library: Library) -> None:
    with pytest.raises(NotFound, match="nor any other yet; make one with `smolora-client prepare`"):
        await library.dataset(Ref("verses"))
    with pytest.raises(NotFound, match="nor any other yet; train one with `smolora-client train`"):
        await library.adapter(Ref("verses"))
    with pytest.raises(NotFound, match="nor any other yet; take `starter`, or bring one with `smolora-client import`"):
        await library.model("verses")
    await library.add_dataset(dataset("psalms", 1))
    await library.add_dataset(dataset("psalms", 2))
    with pytest.raises(NotFound, match="there is psalms"):
        await library.dataset(Ref("verses"))
    with pytest.raises(NotFound, match="psalms@1, psalms@2"):
        await library.dataset(Ref("psalms", 3))
    with pytest.raises(NotFound):
        await library.remove_dataset(Ref("verses"))
    with pytest.raises(NotFound):
        await library.remove_model("nobody")


async def test_the_starter_which_is_loaded_without_a_copy_in_the_home_names_the_way_to_one(library: Library) -> None:
    for call in (library.model, library.remove_model):
        with pytest.raises(NotFound, match="import starter --name NAME"):
            await call("starter")


async def test_pages_go_on_where_the_last_ended(library: Library) -> None:
    for i in range(5):
        await library.add_model(model(f"m{i}"))
        await library.add_dataset(dataset(f"d{i}", 1))
    await library.add_dataset(dataset("d1", 2))
    assert [one.name for one in await library.models(2)] == ["m4", "m3"]
    assert [one.name for one in await library.models(9, "m3")] == ["m2", "m1", "m0"]
    newest = await library.datasets(9)
    assert [str(one.ref) for one in newest] == ["d1@2", "d4@1", "d3@1", "d2@1", "d0@1"]
    assert [str(one.ref) for one in await library.datasets(9, "d4@1")] == ["d3@1", "d2@1", "d0@1"]
    for revision in (1, 2, 3):
        await library.add_adapter(adapter("a", revision))
    await library.add_adapter(adapter("b", 1))
    assert [str(one.ref) for one in await library.adapters(9)] == ["b@1", "a@3", "a@2", "a@1"]
    assert [str(one.ref) for one in await library.adapters(9, "a@3", "a")] == ["a@2", "a@1"]


async def test_small_settings_are_remembered(library: Library) -> None:
    assert await library.recall("resident") is None
    await library.remember("resident", "starter")
    await library.remember("resident", "other")
    assert await library.recall("resident") == "other"


async def test_a_moved_home_names_its_own_folders(library: Library, database: Database, tmp_path: Path) -> None:
    before, after = Home(tmp_path / "before"), Home(tmp_path / "after")
    await library.add_dataset(dataset("verses", 3, "j1", str(before.dataset(Ref("verses", 3)))))
    await library.add_adapter(adapter("style", 2))
    await library.add_model(model("merged", "j3", str(before.model("merged"))))
    await database.run(
        lambda db: db.execute("INSERT INTO library VALUES (99, 'model', 'strange', 0, '', '{\"of\": \"a later version\"}')")
    )
    assert await library.relocate(after) == 4  # the one that cannot be read is forgotten
    assert await library.relocate(after) == 0
    assert await library.dataset(Ref("verses")) == dataset("verses", 3, "j1", str(after.dataset(Ref("verses", 3))))
    assert (await library.adapter(Ref("style"))).path == str(after.adapter(Ref("style", 2)))
    assert (await library.model("merged")).path == str(after.model("merged"))
    with pytest.raises(NotFound):
        await library.model("strange")


async def damage(database: Database, name: str, record: object) -> None:
    """Writes something else into the row of an item."""
    await database.run(lambda db: db.execute("UPDATE library SET record = ? WHERE name = ?", (record, name)))


@pytest.mark.parametrize("record", ["", "{", "[]", "null", "[" * 100_000, 7, b"\xff\xfe", '{"name": 3}'])
async def test_one_row_that_cannot_be_read_hides_no_other(library: Library, database: Database, record: object) -> None:
    for name in ("a", "b", "c"):
        await library.add_adapter(adapter(name, 1))
        await library.add_dataset(dataset(name, 1))
    await damage(database, "b", record)
    assert [one.name for one in await library.adapters(9)] == ["c", "a"]
    assert [one.name for one in await library.adapters(1, "c@1")] == ["a"]
    assert [one.name for one in await library.datasets(9)] == ["c", "a"]
    with pytest.raises(Damaged, match="restart the daemon"):
        await library.adapter(Ref("b"))


async def test_a_row_that_cannot_be_read_is_read_from_its_folder_at_the_next_start(
    library: Library, database: Database, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    item = dataset("verses", 1, "j1", str(home.dataset(Ref("verses", 1))))
    published(home, home.jobs / "stage", item, home.dataset(item.ref))
    await library.add_dataset(item)
    await damage(database, "verses", "{")
    await library.relocate(home)
    assert await adopt(home, library) == 1
    assert await library.dataset(Ref("verses")) == item


def published(home: Home, stage: Path, item: Dataset | Model, final: Path) -> None:
    """A folder with the item's record, as jobs publish it."""
    stage.mkdir(parents=True)
    (stage / "data").write_text("x")
    publish.publish(stage, final, msgspec.to_builtins(item))


async def test_a_lost_database_of_a_moved_home_is_rebuilt(library: Library, tmp_path: Path) -> None:
    before, after = Home(tmp_path / "before"), Home(tmp_path / "after")
    after.create()
    item = dataset("verses", 1, "j1", str(before.dataset(Ref("verses", 1))))
    published(after, after.jobs / "stage", item, after.dataset(item.ref))
    assert await adopt(after, library) == 1
    assert (await library.dataset(Ref("verses"))).path == str(after.dataset(item.ref))


async def test_a_lost_database_is_rebuilt_from_the_folders(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    items = [dataset("verses", revision, f"j{revision}", str(home.dataset(Ref("verses", revision)))) for revision in (2, 10)]
    for item in items:
        published(home, home.jobs / "stage", item, home.dataset(item.ref))
    merged = model("merged", "j3", str(home.model("merged")))
    published(home, home.jobs / "stage", merged, home.model("merged"))
    (home.models / "strange").mkdir()
    (home.models / "strange" / "notes.txt").touch()
    (home.models / ".removed-old-1").mkdir()
    home.database.write_bytes(b"this is no database at all, and never was one" * 100)

    async with Database.open(home.database) as database:
        library = Library(database)
        assert await adopt(home, library) == 3
        assert await adopt(home, library) == 0
        assert [one.revision for one in [await library.dataset(Ref("verses"))]] == [10]
        assert await library.dataset(Ref("verses", 2)) == items[0]
        assert await library.model("merged") == merged
        assert await library.next_revision("dataset", "verses") == 11
    assert home.database.with_name("smolora.db.damaged-1").exists()
    assert (home.models / "strange").exists(), "what is not ours is left alone"
    assert not (home.models / ".removed-old-1").exists()


def hidden(folder: Path) -> Path:
    """Where a folder lies while it is removed."""
    return folder.with_name(publish.HIDDEN + folder.name)


async def test_what_lies_there_without_a_row_is_recorded_swept_or_left_alone(library: Library, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    whole, copied, cut = (dataset("verses", revision, f"j{revision}") for revision in (1, 2, 3))
    for item in (whole, copied, cut):
        published(home, home.jobs / "stage", item, home.dataset(item.ref))
    elsewhere = home.dataset(Ref("psalms", 2))
    elsewhere.parent.mkdir()
    home.dataset(copied.ref).rename(elsewhere)  # its manifest names another place
    (home.dataset(cut.ref) / "data").write_text("")
    empty, only_manifest, peft = (home.adapter(Ref("style", revision)) for revision in (4, 5, 6))
    for folder in (empty / "sub", only_manifest, peft, home.models / "merged"):
        folder.mkdir(parents=True)
    (only_manifest / publish.MANIFEST).write_text("{")
    (peft / "adapter_config.json").write_text("{}")  # by the user's hand
    (home.adapters / "style" / "²").mkdir()
    assert await adopt(home, library) == 1
    assert await library.places() == {("dataset", "verses", 1)}
    for folder in (elsewhere, home.dataset(cut.ref), peft):
        assert list(folder.iterdir())
    for folder in (empty, only_manifest, home.models / "merged"):
        assert not folder.exists()


@pytest.mark.parametrize(
    ("row", "files", "stays"), [(True, "all", True), (True, "none", False), (True, "cut", False), (False, "all", False)]
)
async def test_a_removal_that_was_cut_short_is_undone_or_finished(
    library: Library, tmp_path: Path, row: bool, files: str, stays: bool
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    items = (dataset("verses", 1), model("merged"))
    for item in items:
        folder = home.model(item.name) if isinstance(item, Model) else home.dataset(item.ref)
        published(home, home.jobs / "stage", item, folder)
        away = publish.hide(folder)
        if files == "none":
            publish.empty(away)
        elif files == "cut":
            (away / "data").write_text("")
    if row:
        await library.add_dataset(items[0])
        await library.add_model(items[1])
    await adopt(home, library)
    assert await library.places() == ({("dataset", "verses", 1), ("model", "merged", 0)} if stays else set())
    assert home.dataset(Ref("verses", 1)).exists() == home.model("merged").exists() == stays
    assert not list(home.root.glob("*/.*"))
    assert not list(home.root.glob("*/*/.*"))


async def test_a_model_published_anew_is_not_replaced_by_an_earlier_removal(library: Library, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    item = model("merged")
    published(home, home.jobs / "stage", item, home.model("merged"))
    publish.hide(home.model("merged"))
    published(home, home.jobs / "stage", item, home.model("merged"))
    await library.add_model(item)
    await adopt(home, library)
    assert publish.verify(home.model("merged"))
    assert not list(home.models.glob(".*"))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kind", b"dataset"),
        ("name", b"\xff"),
        ("name", "other"),
        ("revision", "one"),
        ("revision", b"\xff"),
        ("revision", 7),
        ("job_id", b"j"),
    ],
)
async def test_columns_that_are_not_those_of_the_record_are_read_from_the_folder_again(
    library: Library, database: Database, tmp_path: Path, column: str, value: object
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    for name in ("one", "two"):
        final = home.dataset(Ref(name, 1))
        item = dataset(name, 1, f"job-{name}", str(final))
        published(home, home.jobs / name / "stage", item, final)
        await library.add_dataset(item)
    await database.run(lambda db: db.execute(f"UPDATE library SET {column} = ? WHERE number = 1", (value,)))
    assert await library.relocate(home) == 1
    assert await adopt(home, library) == 1
    assert {(one.name, one.revision, one.job_id) for one in await library.datasets(10)} == {
        ("one", 1, "job-one"),
        ("two", 1, "job-two"),
    }


@pytest.mark.parametrize("value", [b"\xff", "many", -1.5])
async def test_a_damaged_count_of_revisions_is_no_end(library: Library, database: Database, value: object) -> None:
    await library.add_dataset(dataset("one", 1))
    await database.run(lambda db: db.execute("UPDATE revisions SET last = ?", (value,)))
    assert isinstance(await library.next_revision("dataset", "one"), int)
    await library.add_dataset(dataset("one", 2))
    assert await library.next_revision("dataset", "one") == 3
