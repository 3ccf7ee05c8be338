"""What the engine has loaded: no device computes unchecked, and a load replaces what there was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smolora.v1 import generation_pb2
from smolorad.domain import Device
from smolorad.engine.adapters.registry import read_adapter
from smolorad.engine.device_check.cpu_comparison import CpuComparison
from smolorad.engine.model.load import no_report
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.runtime.free_memory import Memory
from smolorad.engine.serve.session import Session
from smolorad.errors import NoModel, OutOfMemory
from smolorad.link.v1 import link_pb2 as pb
from tests.unit.engine.kit import fp32_base, make_adapter


def test_every_device_but_the_cpu_is_checked(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hardware, "here", lambda: Hardware(mps=True))
    checked: list[Device] = []

    def kernel_fault(self: CpuComparison, placement: Any) -> str:
        checked.append(placement.device)
        return "its numbers are wrong"

    monkeypatch.setattr(CpuComparison, "kernel_fault", kernel_fault)
    base = Session().load(pb.Load(path=str(llama_folder), name="tiny"), no_report)
    assert checked == [Device.MPS, Device.MPS]
    assert base.device is Device.CPU
    assert base.notes[0] == "The self-test refused float32 on mps with sdpa attention: its numbers are wrong."


def test_a_load_replaces_the_adapters_and_prefixes_of_the_model_before(llama_folder: Path, tmp_path: Path) -> None:
    session = Session()
    with pytest.raises(NoModel):
        session.attach(pb.AdapterFolder(key="a@1", path="/nowhere"))
    session.load(pb.Load(path=str(llama_folder), name="tiny"), no_report)
    session.attach(pb.AdapterFolder(key="a@1", path=str(make_adapter(llama_folder, tmp_path / "adapter"))))
    assert session.adapter_keys == ("a@1",)
    session.load(pb.Load(path=str(llama_folder), name="again"), no_report)
    assert (session.adapter_keys, session.base.name) == ((), "again")


def test_a_model_that_cannot_fit_is_refused_and_the_one_before_stays(llama_folder: Path) -> None:
    memory, found = [Memory(64 * 10**9, 64 * 10**9)], []
    session = Session(measure=lambda device: memory[0])
    session.load(pb.Load(path=str(llama_folder), name="small"), no_report)
    memory[0] = Memory(10**6, 64 * 10**9)
    session.load(pb.Load(path=str(llama_folder), name="warned"), no_report, found.append)
    assert "warned needs" in found[-1].advice
    assert found[-1].advice.endswith("1 MB are free; close other programs, or choose a smaller model.")
    memory[0] = Memory(10**6, 2 * 10**6)
    with pytest.raises(OutOfMemory, match="this machine has 2 MB"):
        session.load(pb.Load(path=str(llama_folder), name="refused"), no_report, found.append)
    assert [one.name for one in found] == ["warned", "refused"]
    assert session.base.name == "warned"


def test_the_memory_of_the_loaded_model_is_offered(llama_folder: Path) -> None:
    free = 64 * 10**9
    session, found = Session(measure=lambda device: Memory(free, 64 * 10**9)), []
    session.load(pb.Load(path=str(llama_folder), name="first"), no_report, found.append)
    estimate = found[0]
    free = estimate.total_bytes - estimate.weight_bytes // 2
    session.load(pb.Load(path=str(llama_folder), name="second"), no_report, found.append)
    assert "`smolora-client unload` first frees the 0 MB of first" in found[1].advice


def test_nothing_is_on_disk_of_an_adapter_that_is_being_trained(own_cache: Path, llama_folder: Path, tmp_path: Path) -> None:
    session = Session(prefix_cache_disk_bytes=2**27)
    session.use(fp32_base(llama_folder))
    folder = make_adapter(llama_folder, tmp_path / "adapter")
    session.offer("job", lambda: (3, read_adapter(session.base, folder)))
    request = generation_pb2.GenerateRequest(prompt="A daemon")
    adapters = (pb.AdapterFolder(key="a@1", path=str(folder)), pb.AdapterFolder(name="a", live=pb.LiveAdapter(job_id="job")))
    published, live = (session.request(1, pb.Generate(request=request, adapter=one), 0.0) for one in adapters)
    assert published._sequence._all_prefixes.stored is not None
    assert live._sequence._all_prefixes.stored is None
