"""The command `smolorad` as a shell sees it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smolorad import __version__
from smolorad.config import Settings


def smolorad(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smolorad.cli", *argv],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_version_is_told() -> None:
    done = smolorad("--version")
    assert (done.returncode, done.stdout) == (0, f"smolorad {__version__}\n")


@pytest.mark.parametrize("argv", [(), ("fly",), ("serve", "--warp", "9"), ("install", "now")])
def test_wrong_usage_exits_with_2_and_says_how(argv: tuple[str, ...]) -> None:
    done = smolorad(*argv)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: smolorad")
    assert "Traceback" not in done.stderr


def test_serve_offers_a_flag_for_each_setting() -> None:
    told = smolorad("serve", "--help", COLUMNS="200").stdout
    for name, field in Settings.__dataclass_fields__.items():
        if "help" in field.metadata and not field.metadata["in_file_only"]:
            assert f"--{name.replace('_', '-')}" in told


def test_settings_that_cannot_work_exit_with_78_and_with_0_under_launchd(home: Path) -> None:
    refused = smolorad("serve", SMOLORA_MAX_QUEUE="0")
    assert refused.returncode == 78
    assert refused.stderr == "smolorad: SMOLORA_MAX_QUEUE is '0', but must be at least 1.\n"
    assert smolorad("serve", "--under-launchd", SMOLORA_MAX_QUEUE="0").returncode == 0, "launchd would try again for ever"
    assert not home.exists()


def test_places_that_cannot_be_made_are_one_sentence_and_exit_with_78(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for argv in (
        ("--home", str(tmp_path / "file")),
        ("--home", str(tmp_path / "file" / "below")),
        ("--log-file", str(tmp_path / "file" / "daemon.log")),
        ("--log-file", str(tmp_path)),
    ):
        refused = smolorad("serve", *argv)
        assert refused.returncode == 78, refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "choose another" in refused.stderr


def test_a_second_daemon_exits_with_3_and_with_0_under_launchd(home: Path) -> None:
    home.mkdir(mode=0o700)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = smolorad("serve")
        assert refused.returncode == 3
        assert f"A daemon is running on {home} already" in refused.stderr
        assert smolorad("serve", "--under-launchd").returncode == 0


def test_a_dry_run_of_install_writes_nothing(home: Path) -> None:
    done = smolorad("install", "--dry-run", HOME=str(home.parent))
    assert done.returncode == 0, done.stderr
    assert "smolorad.cli" in done.stdout
    assert f"SMOLORA_HOME={home}" in done.stdout or str(home) in done.stdout
    assert not home.exists()


def test_install_refuses_settings_the_service_would_die_of() -> None:
    done = smolorad("install", "--dry-run", SMOLORA_DEVICE="abacus")
    assert done.returncode == 1
    assert "SMOLORA_DEVICE is 'abacus'" in done.stderr
