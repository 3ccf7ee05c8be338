"""What the pins allow: no torch on macOS that computes long matrix products wrongly, and one version of everything."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement

from tests.house.repository import ROOT

BAD_ON_MACOS = ("2.10.0", "2.12.1", "2.13.0", "2.13.1")


def here(lines: list[str], platform: str) -> list[Requirement]:
    """The requirements that count on a system."""
    parsed = [Requirement(line) for line in lines if not line.startswith("#")]
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"sys_platform": platform})]


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_what_is_pinned_is_pinned_once_and_fits_what_is_asked_for(platform: str) -> None:
    pins = here((ROOT / "constraints.txt").read_text().splitlines(), platform)
    versions = {pin.name.lower(): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for asked in here(project["dependencies"] + project["optional-dependencies"]["daemon"], platform):
        assert asked.specifier.contains(versions[asked.name.replace("huggingface-hub", "huggingface_hub").lower()]), asked


def test_no_torch_with_the_fault_is_installed_on_macos() -> None:
    daemon = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["daemon"]
    for platform, allowed in (("darwin", False), ("linux", True)):
        (torch,) = [one for one in here(daemon, platform) if one.name == "torch"]
        assert [torch.specifier.contains(version) for version in BAD_ON_MACOS] == [allowed] * len(BAD_ON_MACOS)
