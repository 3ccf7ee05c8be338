"""The state folder's layout, and the socket's checks."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from smolorad.domain import Ref
from smolorad.errors import InvalidRequest, NoAccess, system_errors

# sun_path has 104 bytes on macOS, its closing zero included; Linux has 108. One limit for both keeps configurations portable.
SOCKET_PATH_LIMIT_BYTES = 103
# Linux' PATH_MAX, its closing zero included, and NAME_MAX of every usual file system; macOS allows 1,024, and says so itself.
_PATH_LIMIT_BYTES, _NAME_LIMIT_BYTES = 4096, 255


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
        """Incomplete files; removed when the job starts again."""
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
        """Locked while the daemon runs, so that one daemon owns this state."""
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
        """The files that jobs keep between runs: ID/."""
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
        """Makes the folders that do not exist, for their owner alone.

        Raises InvalidRequest where one is a link or a file, belongs to another user, or is shared and not smolora's. Database
        and lock are checked where they are opened.
        """
        private_folder(self.root, ours=lambda: self.database.is_file())
        for folder in (self.datasets, self.adapters, self.models, self.uploads, self.jobs):
            private_folder(folder)


def private_folder(path: Path, ours: Callable[[], bool] = lambda: True) -> None:
    """Makes a folder that only its owner may enter, or checks that it is one.

    One that lets others in is closed (0700) if it is `ours` or empty. Any other stays untouched: a shared folder such as /tmp
    would stop working for everyone. Raises InvalidRequest for a link, a file, another user's folder, and a shared one.
    """
    found = _folder(path, "SMOLORA_HOME")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise NoAccess(
            f"The daemon may not read and write in {path}; type `chmod 700 {shlex.quote(str(path))}`, see that its disk is not "
            "read-only, or choose another place with SMOLORA_HOME."
        )
    mode = stat.S_IMODE(found.st_mode)
    if not mode & 0o077:
        return
    with system_errors():
        if mode & stat.S_ISVTX or not (ours() or not any(path.iterdir())):
            # The advice must not close a folder of the system, such as /tmp or /.
            shared = mode & stat.S_ISVTX or os.path.ismount(path)
            close = "" if shared else f", or, if only you use it, type `chmod 700 {shlex.quote(str(path))}`"
            raise InvalidRequest(
                f"{path} lets other users in and smolora did not make it, so it stays as it is; "
                f"name a folder of its own with SMOLORA_HOME{close}."
            )
        path.chmod(0o700)


def socket_folder(path: Path) -> None:
    """Makes the socket's folder for its owner alone; one that is there stays as it is.

    The socket itself lets its owner alone in (0600). A folder in which other users may write is refused: one of them could put
    a socket of theirs in its place. Raises InvalidRequest for that, for a link or a file, and for another user's folder.
    """
    found = _folder(path, "SMOLORA_SOCKET")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise InvalidRequest(
            f"Other users may write in {path}, so one of them could put a socket there in this one's place; "
            "name a folder of your own with SMOLORA_SOCKET."
        )


def _folder(path: Path, variable: str) -> os.stat_result:
    """A folder of this user's, made for its owner alone where it is not there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # a file: refused below
    except OSError as error:
        raise InvalidRequest(
            f"The folder {path} cannot be made ({error.strerror}); choose another place with {variable}."
        ) from error
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        raise InvalidRequest(f"{path} is a link or a file, not a folder; remove it, or choose another place with {variable}.")
    if found.st_uid != os.getuid():
        raise InvalidRequest(f"{path} belongs to another user (uid {found.st_uid}); choose another place with {variable}.")
    return found


def check_own_file(path: Path) -> None:
    """Raises InvalidRequest if a path that smolora writes is anything but a regular file of this user.

    A link is refused, even a broken one: smolora would write its target. Raises NoAccess where permissions or the
    disk forbid to write it.
    """
    with system_errors():
        try:
            found = path.lstat()
        except FileNotFoundError:
            return
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise InvalidRequest(f"{path} is {kind}, and must be a file of smolora's; move it away and start again.")
    if found.st_uid != os.getuid():
        raise InvalidRequest(f"{path} belongs to another user (uid {found.st_uid}); choose another place with SMOLORA_HOME.")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError as error:
        raise NoAccess(
            f"{path} cannot be read and written ({error.strerror}); type `chmod 600 {shlex.quote(str(path))}`, see that "
            "its disk is not read-only, or choose another place."
        ) from error


def user_path(raw: str, field: str) -> Path:
    """A path that a request names; raises InvalidRequest where it is not absolute or no system could have it."""
    if not raw.startswith("/"):
        raise InvalidRequest.field(field, f"{raw[:200]!r} is not absolute; give the whole path")
    if "\0" in raw:
        raise InvalidRequest.field(field, f"{raw[:200]!r} has a NUL character; give a path without one")
    if len(os.fsencode(raw)) >= _PATH_LIMIT_BYTES or any(len(os.fsencode(part)) > _NAME_LIMIT_BYTES for part in raw.split("/")):
        raise InvalidRequest.field(
            field,
            f"{raw[:200]!r}… is too long; a path has at most {_PATH_LIMIT_BYTES - 1:,} bytes, a name in it {_NAME_LIMIT_BYTES}",
        )
    return Path(raw)


def check_readable(folder: Path, suffixes: Collection[str]) -> None:
    """Raises where the folder cannot be listed, or a file directly in it with one of these suffixes cannot be read.

    Each file is opened: macOS lets a background service list what it then may not open. Raises NoAccess, InvalidRequest,
    NotFound.
    """
    with system_errors(), os.scandir(folder) as entries:
        for entry in entries:
            if os.path.splitext(entry.name)[1] in suffixes and not entry.is_dir():
                check_readable_file(Path(entry.path))


def check_readable_file(path: Path) -> None:
    """Raises where a file cannot be read: NoAccess, NotFound, and InvalidRequest for a pipe or the like."""
    with system_errors():
        # Without O_NONBLOCK a pipe would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidRequest(f"{path} is no regular file; replace it by one.")
        finally:
            os.close(fd)


def check_utf8(path: Path, variable: str) -> None:
    """Raises InvalidRequest for a path that is not UTF-8: messages, records and manifests name it, and none takes it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{str(path)!r} is not UTF-8; choose another place with {variable}.") from None


def check_socket_path(path: Path) -> Path:
    """The path itself, if the system can bind it.

    Raises InvalidRequest with the length and the limit, and where something other than a socket is there.
    """
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT_BYTES:
        raise InvalidRequest(
            f"The socket's path is {length} bytes long, and {SOCKET_PATH_LIMIT_BYTES} is the limit: {path}; "
            "choose a shorter one with SMOLORA_SOCKET."
        )
    try:
        there = path.lstat()
    except OSError:  # nothing is there, or its folder says what is wrong
        return path
    if not stat.S_ISSOCK(there.st_mode):
        raise InvalidRequest(f"{path} is no socket; remove what is there, or choose another path with SMOLORA_SOCKET.")
    return path
