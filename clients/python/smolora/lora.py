"""The class that the project began with, on a loaded model: train, save, load, ask.

    from smolora import SmoLoRA

    trainer = SmoLoRA("starter", "notes/", output_dir="./fine_tuned_model")
    trainer.train()
    trainer.save()
    trainer.load_model(trainer.merged_model_path)
    print(trainer.inference("Once upon a time"))

Phases are logged to the logger `smolora`, with their seconds, at INFO; training shows its steps on stderr.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from smolora import _values as values
from smolora._channel import Address
from smolora._dataset_source import not_found_on_hub, prepared, start_preparing
from smolora._errors import BadState, HubUnreachable, InvalidRequest, NoModel, NotFound
from smolora._fields import TrainKeywords
from smolora._remote_model import ModelHandle, RequestedModel, TokenizerHandle
from smolora._settings import train_settings
from smolora._spawn_daemon import launch
from smolora._sync.client import Client
from smolora.cli.output import Output
from smolora.cli.progress import Progress, describe_loading
from smolora.cli.watch import follow
from smolora.common import paths
from smolora.common.text.hugging_face import hugging_face

AnyPath = str | os.PathLike[str]

log = logging.getLogger("smolora")

_MANIFEST = "manifest.json"  # the daemon's own, about its copy
_TOP_K = 50  # transformers' default


class SmoLoRA:
    """Fine-tunes a LoRA adapter on a base model, merges both, and answers.

    `base_model_name`: a name of `Client.models()`, `starter`, a hub id, or a folder. `dataset_name`: a file, a folder, a saved
    dataset, or the id of a dataset of the hub; `text_field` is its field or column. `output_dir` gets `adapter_checkpoint`, a
    PEFT folder, and `final_merged`, a Hugging Face folder.

    `socket` is the daemon's, by default the usual one; where no daemon runs one is started, and stays, unless `start_daemon` is
    false. `device` and `dtype` are chosen by default. `settings` are those of `Client.train`: `max_steps=200, seed=7`.

    Attributes: `dataset`, `adapter_checkpoint`, `merged_model_path`, `device`, `model` and `tokenizer`. What goes wrong raises
    a SmoloraError whose message is one sentence.
    """

    def __init__(
        self,
        base_model_name: AnyPath,
        dataset_name: AnyPath,
        text_field: str = "text",
        output_dir: AnyPath = "./fine_tuned_model",
        *,
        socket: AnyPath | None = None,
        start_daemon: bool = True,
        device: str | None = None,
        dtype: str | None = None,
        **settings: Unpack[TrainKeywords],
    ) -> None:
        train_settings(settings)  # a setting that does not exist is refused now, not after a minute of loading
        self.text_field = text_field
        self.output_dir = _absolute(output_dir)
        self.adapter_checkpoint: str | None = None
        self.merged_model_path: str | None = None
        self._settings = settings
        self._device, self._dtype = device, dtype
        self._name = _daemon_name(self.output_dir)
        self._adapter = ""
        self._closed = False
        self._client = _connect(socket, start_daemon)
        try:
            with _phase("Initialisation"):
                base = _model_reference(base_model_name)
                preparing = start_preparing(self._client, self._name, dataset_name, text_field, base)  # while the model loads
                self.model, self.tokenizer = self._load(base_model_name)
                self._base = self.model.requested
                self._prepared = prepared(preparing, dataset_name)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. The daemon keeps running, and what was made stays."""
        self._closed = True
        self._client.close()

    @property
    def device(self) -> str:
        """Where the model computes: `cpu`, `mps` or `cuda`."""
        return self.model.device

    @property
    def dataset(self) -> Any:
        """The rows to train on, a `datasets.Dataset` with the column `text`. Raises ImportError where that is not installed.

        Set it to something else before `train()`: a `datasets.Dataset`, texts, or what `dataset_name` may be.
        """
        return hugging_face("The attribute dataset").load_from_disk(self._prepared.path)["train"]

    @dataset.setter
    def dataset(self, source: Any) -> None:
        with _phase("Preparing the dataset"):
            preparing = start_preparing(self._client, self._name, source, self.text_field, self._base.model)
            self._prepared = prepared(preparing, source)

    def train(self) -> None:
        """Trains an adapter on the base and writes it to `output_dir/adapter_checkpoint`; `model` answers with it from then on.

        Ctrl-C leaves the training to the daemon, and says how to watch or end it.
        """
        with _phase("Training"):
            resident = self._base.ensure()
            run = self._client.train(str(_revision(self._prepared)), self._name, model=resident.name, **self._settings)
            adapter = follow(run, Output(), "adapter")
            self._adapter = str(_revision(adapter))
            with _replaced(self.output_dir / "adapter_checkpoint") as folder:
                self._client.export_adapter(self._adapter, folder)
        self.adapter_checkpoint = str(self.output_dir / "adapter_checkpoint")
        self.model = ModelHandle(resident, self._adapter, requested=self._base)
        self.tokenizer = TokenizerHandle(self._base)

    def save(self) -> None:
        """Merges the adapter into its base and writes the model to `output_dir/final_merged`. Raises BadState before `train()`.

        A worker merges; the loaded model keeps answering meanwhile.
        """
        if not self._adapter:
            raise BadState("There is no adapter to save yet; call train() first.")
        with _phase("Saving"):
            merged = self._client.merge(self._adapter, f"{self._name[:50]}-{uuid.uuid4().hex[:8]}").result()
            with _replaced(self.output_dir / "final_merged") as folder:
                try:
                    ours = shutil.ignore_patterns(_MANIFEST)
                    shutil.copytree(merged.path, folder, ignore=ours, copy_function=_link)
                finally:
                    # Before the folder is in its place, so that no file of it is ever the daemon's too.
                    self._client.delete_model(merged.name)
        self.merged_model_path = str(self.output_dir / "final_merged")

    def load_model(self, model_path: AnyPath) -> tuple[ModelHandle, TokenizerHandle]:
        """Loads a model, such as that of `merged_model_path`, and answers from it; returns handles to it.

        Raises NotFound for a folder that is not there, UnsupportedModel for what is not a causal language model.
        """
        with _phase("Loading"):
            self.model, self.tokenizer = self._load(model_path)
        return self.model, self.tokenizer

    def inference(self, prompt: str, max_new_tokens: int = 200, do_sample: bool = True, temperature: float = 1.0) -> str:
        """Continues a prompt; returns the prompt and what came after it, without special tokens.

        Answers the base, from `train()` on with the adapter, from `load_model()` on the model loaded. Without `do_sample` the
        likeliest token is taken, and `temperature` does nothing. Raises NoModel after `close()`.
        """
        if self._closed:
            raise NoModel("No model is loaded, as this SmoLoRA was closed; make another one.")
        if not prompt:
            raise InvalidRequest("The prompt is empty; give at least one character to continue from.")
        with _phase("Inference"):
            choice = {"temperature": temperature, "top_k": _TOP_K} if do_sample else {"temperature": 0}
            # As the original, which gives the prompt to transformers' tokenizer.
            generation = self.model.generate(prompt, max_new_tokens=max_new_tokens, parse_special=True, **choice)
            generation.text()
            assert generation.outcome is not None  # text() ends with it, or raises
            token_ids = [*self._client.count_tokens(prompt, parse_special=True).token_ids, *generation.outcome.token_ids]
            return self._client.decode_tokens(token_ids, skip_special_tokens=True)

    def _load(self, model: AnyPath) -> tuple[ModelHandle, TokenizerHandle]:
        requested = RequestedModel(self._client, _model_reference(model), self._device, self._dtype)
        loading = self._client.load(requested.model, device=self._device, dtype=self._dtype)
        try:
            with Progress(Output()) as shown:
                for stage in loading:
                    shown.step(describe_loading(stage), stage.done_bytes, stage.total_bytes)
            resident = loading.result()
        except (NotFound, HubUnreachable) as error:
            if requested.model.count("/") == 1:
                raise not_found_on_hub(model, error) from error
            raise
        return ModelHandle(resident, requested=requested), TokenizerHandle(requested)


def _connect(socket: AnyPath | None, start_daemon: bool) -> Client:
    address = Address.find(socket)
    if start_daemon and not address.answers():
        process, written = launch(address)
        log.warning("No daemon ran, so one was started; it stays: end it with `kill %d`. Its log is %s.", process, written)
    return Client(socket)


def _absolute(path: AnyPath) -> Path:
    try:
        return paths.absolute(path)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _model_reference(model: AnyPath) -> str:
    """A folder's absolute path, or a name as it is.

    Raises NotFound for a path where no model is, InvalidRequest for one with an adapter.
    """
    name, folder = os.fspath(model), _absolute(model)
    if (folder / "config.json").is_file():
        return str(folder)
    if (folder / "adapter_config.json").is_file():
        raise InvalidRequest(f"{name} holds an adapter, not a model; call save(), then load merged_model_path.")
    is_path = not isinstance(model, str) or name.startswith(("/", ".", "~")) or name.count("/") > 1
    if is_path or (folder.is_dir() and "/" in name):
        what = "has no config.json" if folder.is_dir() else "does not exist"
        raise NotFound(f"{name} is not a model's folder: it {what}; check the path, or call train() and save() to make one.")
    return name


def _daemon_name(output: Path) -> str:
    """What dataset and adapter are called in the daemon: the output folder's name, in the letters that a name may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", output.name.lower()).lstrip("._-")[:64] or "smolora"


def _revision(made: values.Dataset | values.Adapter) -> str:
    return f"{made.name}@{made.revision}"


@contextlib.contextmanager
def _phase(name: str) -> Iterator[None]:
    log.info("%s begins.", name)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        log.info("%s failed after %.2f s.", name, time.monotonic() - began)
        raise
    log.info("%s took %.2f s.", name, time.monotonic() - began)


@contextlib.contextmanager
def _replaced(final: Path) -> Iterator[Path]:
    """A path beside `final` to make a folder at; it takes the place of what was there when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    new, old = final.with_name(f".{final.name}-{mark}"), final.with_name(f".{final.name}-{mark}-old")
    try:
        yield new
        if final.exists() or final.is_symlink():
            final.rename(old)
        new.rename(final)
    finally:
        _remove(new)
    _remove(old)


def _link(source: str, target: str) -> None:
    """A further name for a file that is about to lose its first one; a copy where the two are not on one file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
