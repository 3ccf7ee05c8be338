"""FakeWorkers: one-shot work in this process, scripted by a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from smolorad.children.worker import NotLoaded
from smolorad.domain import (
    Dataset,
    DatasetDiff,
    DatasetReport,
    Dtype,
    Fetched,
    LoadEstimate,
    Merged,
    MergeProof,
    ModelFacts,
    Note,
    PhaseProgress,
    Placing,
    Prepared,
    PrepareSpec,
    Preview,
    ResidentModel,
)
from smolorad.errors import SmoloraError
from tests.fake_engine import Script, Wait, next_steps


class FakeWorkers:
    """Workers in this process; each writes a small real folder, so that publishing works."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()

    async def prepare(
        self, spec: PrepareSpec, files: Path | None, tokenizer: Path | None, output: Path
    ) -> AsyncGenerator[PhaseProgress | Note | Prepared, None]:
        """See Workers: every line of every file is a row."""
        self.script.calls.append(("prepare", (spec, files, tokenizer, output)))
        async for step in self._play("prepare", PhaseProgress("read", 1, 1, "rows")):
            yield step
        yield _write_dataset(files, output, spec.model if tokenizer else "")

    async def merge(
        self, base: Path, adapter: Path, output: Path, dtype: Dtype | None = None, *, trust_remote_code: bool = False
    ) -> AsyncGenerator[PhaseProgress | Note | Merged, None]:
        """See Workers."""
        self.script.calls.append(("merge", (base, adapter, output, dtype, trust_remote_code)))
        async for step in self._play("merge", PhaseProgress("merge")):
            yield step
        _write_model(output)
        yield Merged(MergeProof(4, 0.0, 1e-3, 1.0), ModelFacts("e" * 64, "llama", 1000))

    async def fetch(
        self, source: str, revision: str = "", output: Path | None = None, *, trust_remote_code: bool = False
    ) -> AsyncGenerator[PhaseProgress | Note | Fetched, None]:
        """See Workers: a model that stays where it is has no folder."""
        self.script.calls.append(("fetch", (source, revision, output, trust_remote_code)))
        async for step in self._play("fetch", PhaseProgress("download", 1, 2, "bytes")):
            yield step
        if output is not None:
            _write_model(output)
        yield Fetched(str(output or "/nowhere"), source, ModelFacts(self.script.fingerprint, "llama", 1000))

    async def estimate_load(self, model: NotLoaded, placing: Placing, loaded: ResidentModel | None) -> LoadEstimate:
        """See Workers: what the script says."""
        self.script.calls.append(("estimate_load", (model, placing, loaded)))
        found = self.script.estimates.popleft()
        if isinstance(found, SmoloraError):
            raise found
        return found

    async def check_adapter(self, adapter: Path, base: Path, name: str, *, trust_remote_code: bool = False) -> int:
        """See Workers."""
        self.script.calls.append(("check_adapter", (adapter, base, name, trust_remote_code)))
        return self.script.checked(adapter)

    def expect_merge(self, within_s: float, base: Path | None = None) -> None:
        """See Workers."""
        self.script.merges_expected.append((within_s, base))

    async def close(self) -> None:
        """See Workers: nothing waits."""

    async def preview(self, dataset: Dataset, split: str, offset: int, limit: int, tokenizer: Path | None = None) -> Preview:
        """See Workers."""
        rows = _rows(dataset) if split == "train" else []
        return Preview(tuple(rows[offset : offset + limit]), len(rows))

    async def diff(self, before: Dataset, after: Dataset, limit: int) -> DatasetDiff:
        """See Workers."""
        old, new = set(_rows(before)), set(_rows(after))
        added, removed = sorted(new - old), sorted(old - new)
        return DatasetDiff(len(added), len(removed), len(old & new), tuple(added[:limit]), tuple(removed[:limit]))

    async def _play(self, name: str, default: PhaseProgress) -> AsyncGenerator[PhaseProgress | Note, None]:
        done = False
        try:
            for step in next_steps(self.script.work, [default]):
                match step:
                    case SmoloraError():
                        done = True
                        raise step
                    case Wait(until=event):
                        await event.wait()
                    case PhaseProgress() | Note():
                        yield step
            done = True
        finally:
            if not done:
                self.script.cancelled.append(name)


def _write_dataset(files: Path | None, output: Path, tokenizer: str) -> Prepared:
    texts = [path.read_text(encoding="utf-8") for path in sorted(files.rglob("*")) if path.is_file()] if files else []
    rows = [line for text in texts for line in text.splitlines()]
    output.mkdir(parents=True)
    (output / "rows.txt").write_text("\n".join(rows), encoding="utf-8")
    report = DatasetReport(files=len(texts), rows_read=len(rows), rows_kept=len(rows), tokenizer=tokenizer)
    return Prepared(len(rows), 0, report)


def _rows(dataset: Dataset) -> list[str]:
    return (Path(dataset.path) / "rows.txt").read_text(encoding="utf-8").splitlines()


def _write_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
