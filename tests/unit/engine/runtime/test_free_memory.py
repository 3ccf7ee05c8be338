"""Free memory: of the machine, and of the container around this process."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from smolorad.domain import Device
from smolorad.engine.runtime.free_memory import Memory, host_memory, measure_memory

MB = 2**20


def machine(root: Path, cgroup: str, **groups: dict[str, str]) -> Path:
    """A root with this `proc/self/cgroup`, and files in control groups below `sys/fs/cgroup`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for group, files in groups.items():
        folder = root / "sys/fs/cgroup" / group.replace("__", "/").strip("_")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content)
    return root


def second(most: str, used: int, inactive: int) -> dict[str, str]:
    """The files of a group of the second version."""
    stat = f"anon 5\ninactive_file {inactive}\nactive_file 7\n"
    return {"memory.max": f"{most}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def first(most: int, used: int, inactive: int) -> dict[str, str]:
    """The files of a group of the first version."""
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}\n"
    return {"memory.limit_in_bytes": f"{most}\n", "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}


def is_the_machine(found: Memory) -> bool:
    whole = psutil.virtual_memory()
    return found.total_bytes == whole.total and abs(found.free_bytes - whole.available) < 2**30


def test_without_a_container_it_is_the_machine_s(tmp_path: Path) -> None:
    assert is_the_machine(host_memory(tmp_path))  # no such files, as on macOS
    unlimited = machine(tmp_path / "two", "0::/\n", _={"memory.max": "max\n", "memory.current": "5\n", "memory.stat": ""})
    assert is_the_machine(host_memory(unlimited))
    huge = first(2**63 - 4096, 5, 0)
    assert is_the_machine(host_memory(machine(tmp_path / "one", "4:memory:/\n", memory=huge)))


def test_a_container_has_what_its_limit_leaves_and_the_files_it_can_forget(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/\n", _=second(str(100 * MB), 70 * MB, 20 * MB))
    assert host_memory(root) == Memory(50 * MB, 100 * MB)


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    groups = {
        "outer": second(str(90 * MB), 85 * MB, 0),
        "outer__mine": second(str(60 * MB), 10 * MB, 0),
    }
    assert host_memory(machine(tmp_path, "0::/outer/mine\n", **groups)) == Memory(5 * MB, 60 * MB)


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    lines = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n"
    root = machine(tmp_path / "seen", lines, memory__docker__abc=first(100 * MB, 70 * MB, 20 * MB))
    assert host_memory(root) == Memory(50 * MB, 100 * MB)
    # A container sees its own group as the root.
    root = machine(tmp_path / "unseen", lines, memory=first(100 * MB, 120 * MB, 0))
    assert host_memory(root) == Memory(0, 100 * MB)


def test_this_machine_has_some() -> None:
    found = measure_memory(Device.CPU)
    assert 0 < found.free_bytes <= found.total_bytes <= psutil.virtual_memory().total


@pytest.mark.parametrize("damage", ["", "nonsense\n", "1 2 3\n"])
def test_counts_that_cannot_be_read_limit_nothing(damage: str, tmp_path: Path) -> None:
    files = second(str(100 * MB), 70 * MB, 0) | {"memory.current": damage}
    assert is_the_machine(host_memory(machine(tmp_path, "0::/\n", _=files)))
