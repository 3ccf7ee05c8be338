"""From a model's reference to its folder: a name of this home, `starter`, a hub id, or an absolute path."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from smolora.common.adapter_config import adapter_instead, is_adapter
from smolorad import publish
from smolorad.children.worker import NotLoaded, Workers
from smolorad.domain import (
    Fetched,
    LoadEstimate,
    LoadProgress,
    LoadStage,
    Model,
    Note,
    PhaseProgress,
    Placing,
    ResidentModel,
    check_name,
)
from smolorad.errors import Damaged, HubUnreachable, InvalidRequest, NotFound, UnsupportedModel, system_errors
from smolorad.gguf import gguf_files
from smolorad.log import Log
from smolorad.paths import check_readable, check_readable_file, user_path
from smolorad.portable import STARTER, STARTER_ID
from smolorad.store.library import Library

log = Log(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

# The endings of the files that a model is read from.
_MODEL_FILES = frozenset({".json", ".safetensors", ".jinja", ".model", ".txt", ".py"})
_COMPLETE = publish.MANIFEST  # a folder that has it is complete

_AS_PATH = "a folder or a GGUF file is given as ./NAME or by its absolute path"

OnProgress = Callable[[LoadProgress], None]
OnLoadEvent = Callable[[LoadProgress | LoadEstimate], None]


def no_progress(progress: LoadProgress | LoadEstimate) -> None:
    """For a model that is found or loaded while no client watches."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that was found. `fingerprint` is empty where only loading shows it.

    `stamp` changes with the user's own files that `name` is the path of, which may change at any time; empty for published
    models.
    """

    name: str
    path: Path
    fingerprint: str = ""
    trust_remote_code: bool = False
    stamp: tuple[tuple[str | int, ...], ...] = ()


class Resolver:
    """Finds models, and fetches those that are not on this machine yet."""

    def __init__(self, library: Library, workers: Workers, cache: Path, allow_remote_code: Sequence[str] = ()) -> None:
        self._library = library
        self._workers = workers
        self._cache = cache
        self._allowed = frozenset(allow_remote_code)

    async def check(self, reference: str) -> None:
        """Raises NotFound or InvalidRequest for what cannot be a model; does not fetch."""
        if reference == STARTER or _HUB_ID.fullmatch(reference):
            return
        if reference.startswith("/"):
            await asyncio.to_thread(_check_path, user_path(reference, "model"))
        else:
            await self._registered(reference)

    def trusts(self, reference: str) -> bool:
        """Whether the owner allowed this model's own code, by name, in the config file."""
        return reference in self._allowed

    async def find_local(self, reference: str) -> Base | None:
        """The model if it is on this machine already, else None; raises as `check`."""
        await self.check(reference)
        if reference in (STARTER, STARTER_ID):
            found = await asyncio.to_thread(lambda: sorted((self._cache / STARTER).glob(f"*/{_COMPLETE}")))
            return Base(reference, found[-1].parent) if found else None
        return None if _HUB_ID.fullmatch(reference) else await self.find(reference, no_progress)

    async def estimate(self, reference: str, placing: Placing, loaded: ResidentModel | None) -> LoadEstimate:
        """What the model would take in memory beside the loaded one. Nothing is fetched.

        Raises as `check`, NotFound for what is not on this machine, and as loading it before its weights are read.
        """
        return await self._workers.estimate_load(await self._find_to_estimate(reference), placing, loaded)

    async def _find_to_estimate(self, reference: str) -> NotLoaded:
        await self.check(reference)
        if reference in (STARTER, STARTER_ID):
            if (starter := await self.find_local(reference)) is not None:
                return NotLoaded(reference, starter.path)
            if reference == STARTER:
                raise NotFound(
                    "The starter is not on this machine, and a dry run downloads nothing; `smolora-client load starter` does."
                )
        is_gguf = reference.startswith("/") and await asyncio.to_thread(_check_path, user_path(reference, "model"))
        if is_gguf or _HUB_ID.fullmatch(reference):
            return NotLoaded(reference, source=reference, trust_remote_code=self.trusts(reference))
        base = await self.find(reference, no_progress)
        return NotLoaded(reference, base.path, trust_remote_code=base.trust_remote_code)

    async def find(self, reference: str, on_progress: OnProgress) -> Base:
        """The model's folder, fetched if it is not on this machine yet.

        Raises NotFound, InvalidRequest, Damaged, HubUnreachable, and what fetching raises.
        """
        if reference == STARTER:
            return await self._fetched(reference, reference, on_progress)
        if reference.startswith("/"):
            path = user_path(reference, "model")
            is_gguf = await asyncio.to_thread(_check_path, path)
            stamp = await asyncio.to_thread(_stamp, path)
            if is_gguf:
                return dataclasses.replace(await self._fetched(reference, reference, on_progress), stamp=stamp)
            return Base(reference, path, trust_remote_code=self.trusts(reference), stamp=stamp)
        if not _HUB_ID.fullmatch(reference):
            model = await self._registered(reference)
            await asyncio.to_thread(publish.verify, Path(model.path), sums=False)
            trust = self.trusts(reference) or self.trusts(model.source.partition("@")[0])
            return Base(reference, Path(model.path), model.fingerprint, trust)
        try:
            return await self._fetched(reference, reference, on_progress)
        except HubUnreachable as error:
            if reference != STARTER_ID:
                raise
            log.warning("hub unreachable; using the bundled starter", model=reference, why=error.message)
            on_progress(
                LoadProgress(LoadStage.DOWNLOAD, detail="the hub cannot be reached; using the bundled starter, the same model")
            )
            return await self._fetched(STARTER, reference, on_progress)

    async def has_changed(self, base: Base) -> bool:
        """Whether a user's own folder has other files than when it was found."""
        return bool(base.stamp) and await asyncio.to_thread(_stamp, Path(base.name)) != base.stamp

    async def _registered(self, name: str) -> Model:
        try:
            return await self._library.model(check_name(name, "model"))
        except InvalidRequest as error:
            raise InvalidRequest.field("model", f"{name!r} is no name of a model, and no hub id; {_AS_PATH}") from error
        except NotFound as error:
            raise NotFound(f"{error.message.removesuffix('.')}; {_AS_PATH}.") from error

    async def _fetched(self, source: str, name: str, on_progress: OnProgress) -> Base:
        trust = self.trusts(name)
        async with aclosing(self._workers.fetch(source, trust_remote_code=trust)) as events:
            async for event in events:
                match event:
                    case PhaseProgress(phase=phase, done=done, total=total, unit="bytes"):
                        stage = LoadStage.READ if phase in ("read", "convert") else LoadStage.DOWNLOAD
                        on_progress(LoadProgress(stage, done, total, "" if phase == stage else phase))
                    case PhaseProgress(phase=phase):
                        stage = LoadStage.READ if phase == "convert" else LoadStage.DOWNLOAD
                        on_progress(LoadProgress(stage, detail=phase))
                    case Note(text=text):
                        on_progress(LoadProgress(LoadStage.DOWNLOAD, detail=text))
                    case Fetched():
                        return Base(name, Path(event.path), event.facts.fingerprint, trust)
        raise AssertionError("a fetch ends with its result or raises")


def _check_path(path: Path) -> bool:
    """Whether a path is a model as GGUF; raises NotFound or UnsupportedModel where it is no model at all."""
    with system_errors():
        files = gguf_files(path)
    if files:
        for file in files:
            check_readable_file(file)
        return True
    if os.path.isfile(path):
        raise NotFound(
            f"{path} is neither a GGUF file nor a model folder; name a *.gguf file, or the folder that has config.json."
        )
    check_readable(path, _MODEL_FILES)
    if (path / "config.json").is_file():
        return False
    if is_adapter(path):
        raise UnsupportedModel(adapter_instead(str(path)))
    raise NotFound(
        f"{path} is not a model folder: it has neither config.json nor a GGUF file; name one that has, or a model of "
        "`smolora-client models`."
    )


def _stamp(path: Path) -> tuple[tuple[str | int, ...], ...]:
    """Names, inodes, sizes and times of a folder's files, or of a file; empty if it is gone."""
    try:
        if path.is_file():
            return tuple((file.name, *_times(file.stat())) for file in gguf_files(path))
        with os.scandir(path) as entries:
            files = sorted((entry.name, entry.stat()) for entry in entries)
    except (OSError, Damaged):
        return ()
    return tuple((name, *_times(stat)) for name, stat in files)


def _times(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
