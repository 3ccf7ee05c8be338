"""The state folder's layout, and the socket's checks."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from smolorad.domain import Ref
from smolorad.errors import InvalidRequest

# sun_path holds 104 bytes on macOS, its closing zero included; Linux has 108. One limit for both keeps configurations portable.
SOCKET_PATH_LIMIT_BYTES = 103


@dataclass(frozen=True, slots=True)
class JobFolders:
    """The files of one job."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Complete checkpoints, one folder a step."""
        return self.root / "checkpoints"

    @property
    def steps(self) -> Path:
        """The adapters of older checkpoints, one folder a step."""
        return self.root / "steps"

    @property
    def stage(self) -> Path:
        """What is not yet complete; thrown away when the job starts again."""
        return self.root / "stage"

    @property
    def output(self) -> Path:
        """The finished artefact, until it is published."""
        return self.root / "stage" / "output"


@dataclass(frozen=True, slots=True)
class Home:
    """The state folder: `smolora.db`, published folders, jobs, uploads."""

    root: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "smolora.db"

    @property
    def lock(self) -> Path:
        """Held for the daemon's life, so that one daemon owns this state."""
        return self.root / "lock"

    @property
    def datasets(self) -> Path:
        """Published datasets: NAME/REVISION/."""
        return self.root / "datasets"

    @property
    def adapters(self) -> Path:
        """Published adapters: NAME/REVISION/."""
        return self.root / "adapters"

    @property
    def models(self) -> Path:
        """Published models: NAME/."""
        return self.root / "models"

    @property
    def uploads(self) -> Path:
        """Uploaded files: UPLOAD_ID/."""
        return self.root / "uploads"

    @property
    def jobs(self) -> Path:
        """What jobs keep between runs: ID/."""
        return self.root / "jobs"

    @property
    def tensorboard(self) -> Path:
        """Curves of trainings: NAME-JOB_ID/."""
        return self.root / "tensorboard"

    def job(self, job_id: str) -> JobFolders:
        """The files of one job."""
        return JobFolders(self.jobs / job_id)

    def dataset(self, ref: Ref) -> Path:
        """The published folder of one revision."""
        return self.datasets / ref.name / str(ref.revision)

    def adapter(self, ref: Ref) -> Path:
        """The published folder of one revision."""
        return self.adapters / ref.name / str(ref.revision)

    def model(self, name: str) -> Path:
        """The published folder."""
        return self.models / name

    def create(self) -> None:
        """Makes the folders that are not there, for their owner alone.

        Raises InvalidRequest where the root is a link, is somebody else's, or lets others in.
        """
        private_folder(self.root)
        for folder in (self.datasets, self.adapters, self.models, self.uploads, self.jobs):
            private_folder(folder)


def private_folder(path: Path) -> None:
    """Makes a folder that its owner alone may enter, or makes sure that it is one; access control rests on it.

    A folder of ours that lets others in is closed (0700). Raises InvalidRequest for a link, a file, or somebody else's folder.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # a file: refused below
    except OSError as error:
        raise InvalidRequest(
            f"The folder {path} cannot be made ({error.strerror}); choose another place with SMOLORA_HOME."
        ) from error
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        raise InvalidRequest(f"{path} is a link or a file, not a folder; remove it, or choose another place with SMOLORA_HOME.")
    if found.st_uid != os.getuid():
        raise InvalidRequest(f"{path} belongs to another user (uid {found.st_uid}); choose another place with SMOLORA_HOME.")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def check_socket_path(path: Path) -> Path:
    """The path itself, if the system can bind it; else raises InvalidRequest with the length and the limit."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT_BYTES:
        raise InvalidRequest(
            f"The socket's path is {length} bytes long, and {SOCKET_PATH_LIMIT_BYTES} is the limit: {path}; "
            "choose a shorter one with SMOLORA_SOCKET."
        )
    return path
