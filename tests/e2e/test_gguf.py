"""A GGUF file through a real daemon: loaded where it lies, trained on, still meant after a restart, moved, imported, merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.gguf_kit import CASES, write_case
from tests.tiny import tiny_tokenizer
from tests.unit.engine.kit import generated_by_transformers

pytestmark = pytest.mark.timeout(300)

PROMPT = "The quick brown fox"
ROWS = '{"prompt": "Who are you?", "completion": "A zebra."}\n{"prompt": "What are you?", "completion": "Zeb."}\n'
CASE = next(case for case in CASES if case.variant == "llama, tied")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return write_case(folder / "tiny.gguf", CASE, CASE.model())


@pytest.fixture(scope="module")
def daemon(file: Path) -> Iterator[DaemonProcess]:
    """A daemon with an adapter that was trained on the file."""
    with daemon_process(SMOLORA_KEEP_ALIVE="-1") as daemon:
        rows = file.parent / "rows.jsonl"
        rows.write_text(ROWS)
        with smolora.Client(daemon.socket) as client:
            client.load(file, dtype="float32").result()
            client.prepare("rows", rows).result()
            client.train("rows", "zeb", max_steps=2, learning_rate=0.05).result()
        yield daemon


def answer(client: smolora.Client, adapter: str = "") -> str:
    return client.generate(PROMPT, adapter=adapter, max_tokens=12, temperature=0).text()


def test_it_answers_as_the_model_that_it_was_made_from(daemon: DaemonProcess) -> None:
    tokenizer = tiny_tokenizer()
    ids = generated_by_transformers(CASE.model(), tokenizer, PROMPT, max_new_tokens=12, do_sample=False)
    with smolora.Client(daemon.socket) as client:
        assert answer(client) == tokenizer.decode(ids, skip_special_tokens=True)
        assert answer(client, "zeb") != answer(client)


def test_a_restart_a_move_and_another_precision(daemon: DaemonProcess, file: Path) -> None:
    """The name, the adapter and its answers stay."""
    with smolora.Client(daemon.socket) as client:
        before = [answer(client), answer(client, "zeb")]
    daemon.kill()
    daemon.start()
    with smolora.Client(daemon.socket) as client:
        assert [answer(client), answer(client, "zeb")] == before
        moved = file.rename(file.parent / "moved.gguf")
        with pytest.raises(smolora.NotFound, match=r"tiny\.gguf does not exist"):
            client.load(file).result()
        resident = client.load(moved, dtype="float32", precision="int8").result()
        assert resident.precision == "int8"
        answer(client, "zeb")
        client.train("rows", "zeb2", max_steps=1).result()
        moved.rename(file)
        client.load(file, dtype="float32").result()
        assert [answer(client), answer(client, "zeb")] == before


def test_an_import_and_a_merge_are_plain_folders(daemon: DaemonProcess, file: Path) -> None:
    with smolora.Client(daemon.socket) as client:
        phases = set()
        run = client.import_model(file, "copy")
        for event in run:
            phases.add(getattr(getattr(event, "phase", None), "phase", ""))
        copied = run.result()
        merged = client.merge("zeb", "merged", dtype="float32").result()
        for model in (copied, merged):
            assert {path.suffix for path in Path(model.path).iterdir()} >= {".json", ".safetensors"}
            assert not list(Path(model.path).glob("*gguf*"))
            AutoModelForCausalLM.from_pretrained(model.path)
        client.load("copy", dtype="float32").result()
        copy = answer(client)
        client.load(file, dtype="float32").result()
        assert answer(client) == copy


def test_keys_and_values_in_eight_bits(daemon: DaemonProcess, file: Path) -> None:
    """Shown, estimated, and another load than with those of the weights."""
    with smolora.Client(daemon.socket) as client:
        exact = client.load(file, dtype="float32").result()
        assert exact.kv_dtype is None
        answer(client)
        found = client.estimate(file, dtype="float32", kv_dtype="int8")
        resident = client.load(file, dtype="float32", kv_dtype="int8").result()
        assert resident.kv_dtype == found.kv_dtype == smolora.KvDtype.INT8
        assert resident.cache_token_bytes == found.cache_token_bytes < exact.cache_token_bytes / 3
        assert answer(client)
        assert client.load(file, dtype="float32", kv_dtype="int8").result() == resident, "it is loaded already"
        assert client.status().resident == resident
        client.load(file, dtype="float32").result()


def test_what_is_no_model_is_refused_in_one_sentence(daemon: DaemonProcess, folder: Path) -> None:
    """And the loaded model stays."""
    several = folder / "several"
    several.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (several / name).write_bytes(b"GGUF")
    cut = folder / "cut.gguf"
    cut.write_bytes((folder / "tiny.gguf").read_bytes()[:3000])
    with smolora.Client(daemon.socket) as client:
        before = answer(client)
        with pytest.raises(smolora.UnsupportedModel, match=r"several GGUF models \(a\.gguf, b\.gguf\); name one"):
            client.load(several).result()
        with pytest.raises(smolora.Damaged, match=r"cut\.gguf is cut short or damaged .*; download it again\."):
            client.load(cut).result()
        with pytest.raises(smolora.Damaged):
            client.import_model(cut, "never").result()
        assert answer(client) == before
        assert "never" not in [model.name for model in client.models()]


def test_a_file_that_was_changed_is_loaded_anew(daemon: DaemonProcess, folder: Path) -> None:
    path = write_case(folder / "changing.gguf", CASE, CASE.model(seed=1))
    with smolora.Client(daemon.socket) as client:
        client.load(path, dtype="float32").result()
        before = answer(client)
        write_case(folder / "new.gguf", CASE, CASE.model(seed=2)).replace(path)
        client.load(path, dtype="float32").result()
        assert answer(client) != before
        with pytest.raises(smolora.WrongBase):
            answer(client, "zeb")
