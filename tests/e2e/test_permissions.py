"""Files that may not be read or written: one sentence that names the file, from a real daemon that the system refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.powerless import closed, powerless
from tests.tiny import tiny_model
from tests.unit.engine.kit import make_adapter

pytestmark = pytest.mark.timeout(300)

ROWS = [f"row {number} with a few words" for number in range(20)]
CONFIG_EXIT = 78


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("permissions") / "model")


@pytest.fixture(scope="module")
def daemon(model: Path) -> Iterator[DaemonProcess]:
    """A daemon that permissions bind, with the model `mine`, the adapter `style` and the dataset `rows`."""
    with daemon_process(prefix=powerless(), SMOLORA_DTYPE="float32") as running, smolora.Client(running.socket) as client:
        texts = model.parent / "rows.txt"
        texts.write_text("\n".join(ROWS))
        client.import_model(model, "mine").result()
        client.prepare("rows", texts).result()
        peft = make_adapter(model, model.parent / "peft")
        client.import_adapter(peft, "style", base_model="mine")
        yield running


@pytest.fixture
def client(daemon: DaemonProcess, model: Path) -> Iterator[smolora.Client]:
    """A client of the daemon, which has another model than `mine` loaded."""
    with smolora.Client(daemon.socket) as connected:
        connected.load(model).result()
        yield connected


def refused(work: Callable[[], object], *names: str) -> None:
    """The work fails with a sentence that names the file and what to do."""
    with pytest.raises(smolora.NoAccess) as caught:
        work()
    for name in (*names, "Permission denied", "let this user read it"):
        assert name in caught.value.message
    assert caught.value.message.count("\n") == 0


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("name", "elsewhere"),
    [
        ("config.json", True),
        ("model.safetensors", False),
        ("", True),
        pytest.param("model.safetensors", True, marks=LONG),
        pytest.param("tokenizer.json", True, marks=LONG),
        pytest.param("tokenizer_config.json", True, marks=LONG),
    ],
)
def test_a_model_that_may_not_be_read(client: smolora.Client, model: Path, tmp_path: Path, name: str, elsewhere: bool) -> None:
    """`elsewhere`: also by what reads it in a process of its own, which takes seconds to start."""
    folder = shutil.copytree(model, tmp_path / "model")
    with closed(folder / name):
        refused(lambda: client.load(folder).result(), str(folder / name))
        if elsewhere:
            refused(lambda: client.import_model(folder, "other").result(), str(folder / name))
            refused(lambda: client.prepare("more", tmp_path.parent, model=str(folder)).result(), str(folder / name))
    assert client.load(folder).result().name == str(folder)
    assert [one.name for one in client.models()] == ["mine"]


def test_a_model_in_a_folder_that_may_not_be_entered(client: smolora.Client, model: Path, tmp_path: Path) -> None:
    parent = tmp_path / "locked"
    folder = shutil.copytree(model, parent / "model")
    for mode in (0o000, 0o600):
        with closed(parent, mode):
            refused(lambda: client.load(folder).result(), str(folder))
    assert client.load(folder).result().name == str(folder)


@pytest.mark.parametrize(
    ("name", "merges"),
    [
        ("manifest.json", False),
        ("model.safetensors", False),
        pytest.param("manifest.json", True, marks=LONG),
        pytest.param("config.json", True, marks=LONG),
        pytest.param("model.safetensors", True, marks=LONG),
        pytest.param("tokenizer.json", False, marks=LONG),
    ],
)
def test_a_published_model_that_may_not_be_read(client: smolora.Client, daemon: DaemonProcess, name: str, merges: bool) -> None:
    with closed(daemon.home / "models" / "mine" / name):
        refused(lambda: client.load("mine").result(), name)
        if merges:
            refused(lambda: client.merge("style", "merged").result(), name)
    if merges:
        client.unload()  # the generation loads it
    else:
        client.load("mine").result()
    assert client.generate("row", model="mine", max_tokens=2).text() is not None


@pytest.mark.parametrize(
    ("name", "merges"),
    [
        ("adapter_config.json", False),
        ("adapter_model.safetensors", True),
        pytest.param("adapter_config.json", True, marks=LONG),
    ],
)
def test_an_adapter_that_may_not_be_read(
    client: smolora.Client, daemon: DaemonProcess, tmp_path: Path, name: str, merges: bool
) -> None:
    client.load("mine").result()
    with closed(daemon.home / "adapters" / "style" / "1" / name):
        refused(lambda: client.generate("row", adapter="style", max_tokens=2).text(), name)
        if merges:
            refused(lambda: client.merge("style", "merged").result(), name)
        refused(lambda: client.export_adapter("style", tmp_path / "exported"), name)
    assert not list(tmp_path.iterdir())
    assert client.generate("row", adapter="style", max_tokens=2).text() is not None


def test_a_dataset_that_may_not_be_read(client: smolora.Client, daemon: DaemonProcess) -> None:
    folder = daemon.home / "datasets" / "rows" / "1"
    for path in (folder / "train", folder):
        with closed(path):
            refused(lambda: client.preview("rows"), str(path))
            refused(lambda: client.train("rows", "never", model="mine", max_steps=1).result(), str(path))
    assert client.preview("rows").rows


def test_an_export_to_where_nothing_may_be_written(client: smolora.Client, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    for mode in (0o500, 0o000):
        with closed(locked, mode), pytest.raises(smolora.NoAccess, match="locked"):
            client.export_adapter("style", locked / "exported")
    for path in (tmp_path / ("n" * 256), Path(f"{tmp_path}{'/a' * 2500}"), Path(f"{tmp_path}/a\0b")):
        with pytest.raises(smolora.InvalidRequest, match="path"):
            client.export_adapter("style", path)
        with pytest.raises(smolora.InvalidRequest, match="model"):
            client.load(path).result()
    assert not list(locked.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["locked"]


def test_a_file_of_the_client_that_may_not_be_read(daemon: DaemonProcess, tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("one\n")
    with closed(path):
        command = [*powerless(), sys.executable, "-m", "smolora.cli.main", "prepare", str(path), "--name", "more"]
        done = subprocess.run(command, env=daemon.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def started(root: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """`smolorad serve` where it cannot start."""
    places = {"SMOLORA_HOME": str(root / "home"), "SMOLORA_SOCKET": str(root / "d.sock")}
    return subprocess.run(
        [*powerless(), sys.executable, "-m", "smolorad.cli", "serve"],
        env={**os.environ, **places, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _unwritable(home: Path) -> None:
    home.chmod(0o500)


def _unreadable_database(home: Path) -> None:
    (home / "smolora.db").write_bytes(b"x")
    (home / "smolora.db").chmod(0)


HOPELESS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a home that cannot be made": (lambda home: (home.rmdir(), home.parent.chmod(0o500)), "home"),
    "a home that cannot be written": (_unwritable, "home"),
    "datasets that may not be read": (lambda home: (home / "datasets").mkdir(mode=0), "home/datasets"),
    "uploads that may not be written": (lambda home: (home / "uploads").mkdir(mode=0o500), "home/uploads"),
    "jobs that may not be entered": (lambda home: (home / "jobs").mkdir(mode=0o600), "home/jobs"),
    "a database that may not be read": (_unreadable_database, "smolora.db"),
    "a database that may not be written": (lambda home: (home / "smolora.db").touch(0o400), "smolora.db"),
    "a lock that may not be read": (lambda home: (home / "lock").touch(0o000), "lock"),
    "a lock that is a folder": (lambda home: (home / "lock").mkdir(), "lock"),
    "a database that is a folder": (lambda home: (home / "smolora.db").mkdir(), "smolora.db"),
    "a database that is a link to nowhere": (lambda home: (home / "smolora.db").symlink_to(home / "gone"), "smolora.db"),
    "a folder beside the database": (lambda home: (home / "smolora.db-wal").mkdir(), "smolora.db"),
    "a lock of the socket that is a link": (
        lambda home: (home.parent / "d.sock.lock").symlink_to(home / "gone"),
        "d.sock.lock",
    ),
    "a socket that is a link to nowhere": (lambda home: (home.parent / "d.sock").symlink_to(home / "gone"), "d.sock"),
    "a socket that is a file": (lambda home: (home.parent / "d.sock").touch(), "d.sock"),
    "a socket that is a folder": (lambda home: (home.parent / "d.sock").mkdir(), "d.sock"),
}


# Of two that fail alike one is tried by default.
SELDOM = {
    "a home that cannot be written",
    "uploads that may not be written",
    "jobs that may not be entered",
    "a database that may not be written",
    "a database that is a folder",
    "a folder beside the database",
    "a lock of the socket that is a link",
    "a socket that is a file",
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=LONG if case in SELDOM else ()) for case in HOPELESS])
def test_a_home_that_cannot_work(short_path: Path, case: str) -> None:
    make, name = HOPELESS[case]
    (short_path / "home").mkdir(mode=0o700)
    make(short_path / "home")
    done = started(short_path)
    short_path.chmod(0o700)
    assert done.returncode == CONFIG_EXIT, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("smolorad: ")
    assert name in said
    assert "Traceback" not in done.stderr
    assert not (short_path / "home" / "gone").exists()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SMOLORA_SOCKET": "/"}, "/ is no socket"),
        *(({name: os.fsdecode(b"/tmp/\xff")}, name) for name in ("SMOLORA_HOME", "SMOLORA_SOCKET", "XDG_CACHE_HOME")),
        ({"SMOLORA_HOME": "~nobody-of-that-name/home"}, "SMOLORA_HOME"),
        ({"SMOLORA_CONFIG": "~nobody-of-that-name/smolorad.toml"}, "SMOLORA_CONFIG"),
    ],
)
def test_a_place_that_is_none(short_path: Path, environ: dict[str, str], said: str) -> None:
    done = started(short_path, **environ)
    assert done.returncode == CONFIG_EXIT, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", [("smolorad.cli", "serve"), ("smolorad.cli", "uninstall", "-n"), ("smolora.cli.main", "status")]
)
def test_a_relative_home_in_a_folder_that_is_gone(tmp_path: Path, command: tuple[str, ...]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$1"; shift; exec "$@"', "sh", gone, sys.executable, "-m", *command],
        env={name: value for name, value in os.environ.items() if name != "SMOLORA_SOCKET"} | {"SMOLORA_HOME": "home"},
        cwd=gone,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (1, CONFIG_EXIT)
    assert "home" in done.stderr
    assert done.stderr.count("\n") == 1


def test_folders_in_the_home_that_may_not_be_read_are_left_alone(short_path: Path) -> None:
    places = ("datasets/rows", "datasets/others/1", "models/mine", "adapters/style/1", "uploads/0123")

    def fill(home: Path) -> None:
        for place in places:
            (home / place / "inside").mkdir(parents=True)
            (home / place / "inside" / "file").touch()
            (home / place).chmod(0)
        home.chmod(0o700)

    with daemon_process(fill, prefix=powerless()) as daemon, smolora.Client(daemon.socket) as client:
        assert client.datasets() == client.models() == client.adapters() == []
        assert all((daemon.home / place / "inside" / "file").exists() for place in places)
        assert daemon.stop() == 0
