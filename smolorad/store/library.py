"""Datasets, adapters and models by name and revision, and a few small settings."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from smolorad.domain import Adapter, Dataset, Model, Ref
from smolorad.errors import AlreadyExists, Damaged, NotFound
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.portable import STARTER
from smolorad.store.database import Database
from smolorad.store.queries import SQL, from_json, readable, to_json

log = Log(__name__)

T = TypeVar("T", bound=Dataset | Adapter | Model)
Revisioned = Literal["dataset", "adapter"]

_NAMES_LISTED = 8


class _Table(Generic[T]):
    """The rows of one kind."""

    def __init__(self, kind: str, cls: type[T]) -> None:
        self.kind = kind
        self._cls: type[T] = cls

    def add(self, db: sqlite3.Connection, item: T) -> None:
        values = {
            "kind": self.kind,
            "name": item.name,
            "revision": _revision(item),
            "job_id": item.job_id,
            "record": to_json(item),
        }
        try:
            db.execute(SQL["add_item"], values)
        except sqlite3.IntegrityError:
            raise AlreadyExists(f"There is {_a(self.kind)} {_named(item)} already; choose another name.") from None
        db.execute(SQL["raise_revision"], {"kind": self.kind, "name": item.name, "last": _revision(item)})

    def get(self, db: sqlite3.Connection, ref: Ref) -> T:
        if ref.revision is None:
            row = db.execute(SQL["newest_item"], {"kind": self.kind, "name": ref.name}).fetchone()
        else:
            row = db.execute(SQL["item"], {"kind": self.kind, "name": ref.name, "revision": ref.revision}).fetchone()
        if row is None:
            raise self._missing(db, ref)
        return self.read(row)

    def newest(self, db: sqlite3.Connection, limit: int, before: Ref | None, *, name: str = "", each: bool = True) -> list[T]:
        statement = "items" if each else "newest_items"
        values = {"kind": self.kind, "name": name, "before": self._number(db, before)}
        return readable(db.execute(SQL[statement], values), self.read, limit)

    def revisions(self, db: sqlite3.Connection, ref: Ref) -> list[T]:
        if ref.revision is not None:
            return [self.get(db, ref)]
        found = [self.read(row) for row in db.execute(SQL["revisions_of"], {"kind": self.kind, "name": ref.name})]
        if not found:
            raise self._missing(db, ref)
        return found

    def remove(self, db: sqlite3.Connection, ref: Ref) -> list[T]:
        removed = self.revisions(db, ref)
        for item in removed:
            db.execute(SQL["remove_item"], {"kind": self.kind, "name": item.name, "revision": _revision(item)})
        return removed

    def read(self, row: sqlite3.Row) -> T:
        return from_json(self._cls, row["record"])

    def _number(self, db: sqlite3.Connection, before: Ref | None) -> int | None:
        """Where a page continues; an item that was removed meanwhile ends the list."""
        if before is None:
            return None
        values = {"kind": self.kind, "name": before.name, "revision": before.revision or 0}
        row = db.execute(SQL["item"], values).fetchone()
        return int(row["number"]) if row is not None else 0

    def _missing(self, db: sqlite3.Connection, ref: Ref) -> NotFound:
        if self.kind == "model" and ref.name == STARTER:
            return NotFound(
                "The starter model is not in the home; copy it there with `smolora-client import starter --name NAME`."
            )
        values = {"kind": self.kind, "name": ref.name}
        if ref.revision is not None and (rows := db.execute(SQL["revisions_of"], values).fetchall()):
            there = ", ".join(f"{ref.name}@{row['revision']}" for row in rows)
            return NotFound(f"There is no {self.kind} {ref}; there is {there}.")
        names = [row["name"] for row in db.execute(SQL["names"], {"kind": self.kind, "limit": _NAMES_LISTED + 1})]
        if not names:
            return NotFound(f"There is no {self.kind} {ref.name!r}, nor any other yet; {_FIRST[self.kind]}.")
        there = ", ".join(names[:_NAMES_LISTED]) + (", ..." if len(names) > _NAMES_LISTED else "")
        return NotFound(f"There is no {self.kind} {ref.name!r}; there is {there}.")


# How a home gets its first one.
_FIRST = {
    "dataset": "make one with `smolora-client prepare`",
    "adapter": "train one with `smolora-client train`",
    "model": "take `starter`, or bring one with `smolora-client import`",
}
_DATASETS = _Table("dataset", Dataset)
_ADAPTERS = _Table("adapter", Adapter)
_MODELS = _Table("model", Model)
_TABLES: Mapping[str, _Table[Dataset] | _Table[Adapter] | _Table[Model]] = {
    "dataset": _DATASETS,
    "adapter": _ADAPTERS,
    "model": _MODELS,
}


class Library:
    """The rows of published datasets, adapters and models, by name and revision. `jobs.artifacts` handles the folders."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _run(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._database.run(work)

    async def add_dataset(self, dataset: Dataset) -> None:
        """Records a published revision; raises AlreadyExists."""
        await self._run(lambda db: _DATASETS.add(db, dataset))

    async def add_adapter(self, adapter: Adapter) -> None:
        """Records a published revision; raises AlreadyExists."""
        await self._run(lambda db: _ADAPTERS.add(db, adapter))

    async def add_model(self, model: Model) -> None:
        """Records a published model; raises AlreadyExists."""
        await self._run(lambda db: _MODELS.add(db, model))

    async def next_revision(self, kind: Revisioned, name: str) -> int:
        """The number that the name's next revision gets: one more than was ever given, removed ones included."""

        def work(db: sqlite3.Connection) -> int:
            row = db.execute(SQL["last_revision"], {"kind": kind, "name": name}).fetchone()
            return 1 if row is None else int(row["last"]) + 1

        return await self._database.run(work)

    async def dataset(self, ref: Ref) -> Dataset:
        """One revision, or the newest; raises NotFound, which names those there are."""
        return await self._database.run(lambda db: _DATASETS.get(db, ref))

    async def adapter(self, ref: Ref) -> Adapter:
        """One revision, or the newest; raises NotFound, which names those there are."""
        return await self._database.run(lambda db: _ADAPTERS.get(db, ref))

    async def dataset_revisions(self, ref: Ref) -> list[Dataset]:
        """One revision, or all of a name, oldest first; raises NotFound."""
        return await self._database.run(lambda db: _DATASETS.revisions(db, ref))

    async def adapter_revisions(self, ref: Ref) -> list[Adapter]:
        """One revision, or all of a name, oldest first; raises NotFound."""
        return await self._database.run(lambda db: _ADAPTERS.revisions(db, ref))

    async def model(self, name: str) -> Model:
        """One model; raises NotFound, which names those there are."""
        return await self._database.run(lambda db: _MODELS.get(db, Ref(name)))

    async def datasets(self, limit: int, before: str | None = None) -> list[Dataset]:
        """Newest first, each name's newest revision; those before `name@revision`, or all."""
        return await self._database.run(lambda db: _DATASETS.newest(db, limit, _ref(before), each=False))

    async def adapters(self, limit: int, before: str | None = None, name: str = "") -> list[Adapter]:
        """Newest first, every revision, of one name or of all; those before `name@revision`, or all."""
        return await self._database.run(lambda db: _ADAPTERS.newest(db, limit, _ref(before), name=name))

    async def models(self, limit: int, before: str | None = None) -> list[Model]:
        """Newest first; those before the model named, or all."""
        return await self._database.run(lambda db: _MODELS.newest(db, limit, _ref(before)))

    async def remove_dataset(self, ref: Ref) -> list[Dataset]:
        """Forgets a revision, or every one; returns what was forgotten. Raises NotFound."""
        return await self._database.run(lambda db: _DATASETS.remove(db, ref))

    async def remove_adapter(self, ref: Ref) -> list[Adapter]:
        """Forgets a revision, or every one; returns what was forgotten. Raises NotFound."""
        return await self._database.run(lambda db: _ADAPTERS.remove(db, ref))

    async def remove_model(self, name: str) -> Model:
        """Forgets a model; returns it. Raises NotFound."""
        return await self._database.run(lambda db: _MODELS.remove(db, Ref(name))[0])

    async def made_by(self, job_id: str) -> Dataset | Adapter | Model | None:
        """What a job has published, for one that was interrupted right after it."""

        def work(db: sqlite3.Connection) -> Dataset | Adapter | Model | None:
            row = db.execute(SQL["item_by_job"], {"job_id": job_id}).fetchone()
            return None if row is None else _TABLES[row["kind"]].read(row)

        return await self._database.run(work)

    async def places(self) -> set[tuple[str, str, int]]:
        """Kind, name and revision, 0 for a model, of everything that is recorded; also where a record cannot be read."""

        def work(db: sqlite3.Connection) -> set[tuple[str, str, int]]:
            return {(row["kind"], row["name"], int(row["revision"])) for row in db.execute(SQL["places"])}

        return await self._database.run(work)

    async def forget(self, kind: str, name: str, revision: int) -> None:
        """Removes a row without reading its record."""
        await self._run(lambda db: db.execute(SQL["remove_item"], {"kind": kind, "name": name, "revision": revision}))

    async def relocate(self, home: Home) -> int:
        """Makes every record name its folder in this home, which may have been moved or copied; returns how many changed.

        A row that cannot be read, or whose columns are not its record's, is forgotten: `adopt` reads it again from its folder's
        manifest.
        """

        def work(db: sqlite3.Connection) -> int:
            return sum(_relocate(db, row, home) for row in db.execute(SQL["every_item"]).fetchall())

        return await self._database.run(work)

    async def remember(self, key: str, value: str) -> None:
        """Keeps a small setting."""
        await self._run(lambda db: db.execute(SQL["remember"], {"key": key, "value": value}))

    async def recall(self, key: str) -> str | None:
        """A small setting, if it was ever kept."""

        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute(SQL["recall"], {"key": key}).fetchone()
            return None if row is None else str(row["value"])

        return await self._database.run(work)


def _relocate(db: sqlite3.Connection, row: sqlite3.Row, home: Home) -> bool:
    """Whether a record named another folder than its own in this home; then it is changed."""
    try:
        item = _TABLES[row["kind"]].read(row)
        if (row["name"], row["revision"], row["job_id"]) != (item.name, _revision(item), item.job_id):
            raise Damaged("Its columns and its record differ.")
    except (Damaged, LookupError) as error:
        log.warning("unreadable record removed from the library", kind=row["kind"], name=row["name"], why=error)
        db.execute(SQL["forget_item"], {"number": row["number"]})
        return True
    path = str(_folder(item, home))
    if item.path == path:
        return False
    db.execute(SQL["replace_record"], {"number": row["number"], "record": to_json(dataclasses.replace(item, path=path))})
    return True


def _folder(item: Dataset | Adapter | Model, home: Home) -> Path:
    match item:
        case Dataset():
            return home.dataset(item.ref)
        case Adapter():
            return home.adapter(item.ref)
        case Model():
            return home.model(item.name)


def _ref(token: str | None) -> Ref | None:
    if token is None:
        return None
    name, _, revision = token.partition("@")
    return Ref(name, int(revision) if revision.isdigit() else None)


def _revision(item: Dataset | Adapter | Model) -> int:
    return 0 if isinstance(item, Model) else item.revision


def _named(item: Dataset | Adapter | Model) -> str:
    return item.name if isinstance(item, Model) else str(item.ref)


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "adapter" else f"a {kind}"
