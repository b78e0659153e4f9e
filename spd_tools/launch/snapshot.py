"""The code that a job runs: the commit it was submitted from, archived once into the job's folder.

=============  ======================================================================================================
code/          the tracked files of the commit, with the changes where they are taken along; nothing untracked
changes.patch  tracked changes that were not committed, only where there are any
snapshot.json  the record, written last: without it there is no snapshot
=============  ======================================================================================================

git is only read: nothing is pushed, no object, stash or index is written. A wheel does not change under a job, so that
only its version is recorded.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK, sync_folder, write_bytes, write_json
from spd_tools.launch.version import installed_version
from spd_tools.store.records import Record

CODE, PATCH, RECORD = "code", "changes.patch", "snapshot.json"
_PACKAGE = "spd_tools"
_NAMED = 3


class Snapshot(Record):
    """What a job runs."""

    kind: Literal["commit", "wheel"]
    """commit: from a git checkout; wheel: what is installed, which is not copied."""
    commit: str | None
    """Hash of the commit; None of a wheel."""
    dirty: bool
    """Whether tracked, uncommitted changes were taken along (``changes.patch``)."""
    version: str
    """Of the package."""
    code: Path | None
    """The folder that ``spd_tools`` lies in, in the record relative to the job's: SPD_OUT_DIR may move. None of a
    wheel."""

    def environment(self) -> dict[str, str]:
        """Variables with which Python imports this code, and no other copy of it.

        PYTHONSAFEPATH: ``python -m`` would otherwise look into the working directory first, often the checkout.
        """
        if self.code is None:
            return {"PYTHONSAFEPATH": "1"}
        inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        others = [path for path in inherited if not (Path(path) / _PACKAGE).is_dir()]
        return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(self.code), *others])}


def take_snapshot(folder: Path, *, allow_dirty: bool = False) -> Snapshot:
    """Put the code that runs now into a job's folder; a folder that has a snapshot keeps it.

    Args:
        folder: the job's folder; made if it is missing.
        allow_dirty: take tracked, uncommitted changes along instead of refusing.

    Raises:
        SpdToolsError: for uncommitted changes, for git or a repository that do not work, or a folder that cannot be
            written.
    """
    folder = folder.absolute()
    taken = read_snapshot(folder)
    if taken is not None:
        return taken
    try:
        snapshot = _take(_root(), folder, allow_dirty)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpdToolsError(
            f"The code could not be copied to {folder / CODE}: {error.strerror or error}; free space or choose another "
            "SPD_OUT_DIR."
        ) from error
    code = None if snapshot.code is None else Path(CODE)
    write_json(folder / RECORD, snapshot.model_copy(update={"code": code}).model_dump(mode="json"))
    return snapshot


def read_snapshot(folder: Path) -> Snapshot | None:
    """The snapshot in a job's folder; None where none was taken.

    Raises:
        SpdToolsError: when its record is damaged or its code is gone.
    """
    path = folder / RECORD
    try:
        snapshot = Snapshot.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise SpdToolsError(f"{path} cannot be read ({type(error).__name__}); submit the job again.") from None
    if snapshot.code is None:
        return snapshot
    code = folder.absolute() / CODE
    if not (code / _PACKAGE / "__init__.py").is_file():
        raise SpdToolsError(f"The code of {folder.name} is gone from {code}; submit the job again.")
    return snapshot.model_copy(update={"code": code})


def _root() -> Path:
    """The folder that the imported package lies in."""
    return Path(__file__).resolve().parents[2]


def _take(root: Path, folder: Path, allow_dirty: bool) -> Snapshot:
    if root.name == CODE and (root.parent / RECORD).is_file():
        return _of_snapshot(root, folder)
    if _is_installed(root) or not _in_checkout(root):
        return Snapshot(kind="wheel", commit=None, dirty=False, version=installed_version(), code=None)
    return _of_checkout(root, folder, allow_dirty)


def _of_snapshot(root: Path, folder: Path) -> Snapshot:
    """A job that starts jobs hands its own code on."""
    own = read_snapshot(root.parent)
    assert own is not None, "seen a moment ago"
    folder.mkdir(parents=True, exist_ok=True)
    if own.dirty:
        write_bytes(folder / PATCH, (root.parent / PATCH).read_bytes())
    aside = _aside(folder)
    try:
        shutil.copytree(root, aside, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        _put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return own.model_copy(update={"code": folder / CODE})


def _of_checkout(root: Path, folder: Path, allow_dirty: bool) -> Snapshot:
    commit = _git(root, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    changed, patch = _changes(root, commit)
    if changed and not allow_dirty:
        raise SpdToolsError(_refusal(changed, commit))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PATCH).unlink(missing_ok=True)  # of a process that was killed here
    if patch:
        write_bytes(folder / PATCH, patch)
    aside = _aside(folder)
    try:
        _archive(root, commit, aside)
        if patch:
            # Without a ceiling, git inside another repository would apply only what lies below this folder in it.
            ceiling = {"GIT_CEILING_DIRECTORIES": str(aside.parent.resolve())}
            _git(aside, "apply", "--whitespace=nowarn", str(folder / PATCH), variables=ceiling)
        _put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Snapshot(kind="commit", commit=commit, dirty=bool(patch), version=installed_version(), code=folder / CODE)


def _changes(root: Path, commit: str) -> tuple[list[str], bytes]:
    """Tracked files that differ from the commit, and how."""
    # Nothing of the user's configuration may change what a patch looks like; stat data alone are no change.
    diff = ["-c", "diff.autoRefreshIndex=true", "diff", "--relative", "--no-renames", "--no-color", "--no-ext-diff"]
    options = ["--no-textconv", "--binary", "--full-index", "--src-prefix=a/", "--dst-prefix=b/"]
    with tempfile.TemporaryDirectory(prefix="spd-tools-") as folder:
        # git diff writes what it learned about unchanged files into the index: let it be a copy.
        index = Path(os.fsdecode(_git(root, "rev-parse", "--git-path", "index").strip()))
        copy = Path(folder) / "index"
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(root / index, copy)
        variables = {"GIT_INDEX_FILE": str(copy)}
        names = _git(root, *diff, "--name-only", "-z", commit, variables=variables).split(b"\0")
        changed = [os.fsdecode(name) for name in names if name]
        patch = _git(root, *diff, *options, commit, variables=variables) if changed else b""
    return changed, patch


def _refusal(changed: Sequence[str], commit: str) -> str:
    named = ", ".join(changed[:_NAMED])
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return (
        f"A job runs code as it was committed, and tracked files differ from commit {commit[:12]}: {named}{more}; "
        "commit them, or take the changes along with --allow-dirty."
    )


def _archive(root: Path, commit: str, aside: Path) -> None:
    """The tracked files below ``root``: run there, git takes only that part of a larger repository."""
    aside.mkdir()
    archive = aside.with_name(f"{aside.name}.tar")
    try:
        _git(root, "archive", "--format=tar", f"--output={archive}", commit)
        # Not tarfile: its extraction filters are missing from Python 3.11.2, and without them it will not stay quiet.
        unpack = ["tar", "-x", "-f", str(archive), "--no-same-owner", "--no-same-permissions"]
        done = subprocess.run(unpack, cwd=aside, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    finally:
        archive.unlink(missing_ok=True)
    if done.returncode != 0:
        raise SpdToolsError(
            f"The code of commit {commit[:12]} could not be unpacked in {aside} ({_first(done.stderr)})."
        )


def _aside(folder: Path) -> Path:
    return folder / f".{CODE}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}"


def _put_in_place(aside: Path, folder: Path) -> None:
    # Code without a record is what a killed process left.
    shutil.rmtree(folder / CODE, ignore_errors=True)
    aside.rename(folder / CODE)
    sync_folder(folder)


def _is_installed(root: Path) -> bool:
    """Whether the package lies where pip puts packages (which may well be inside somebody's repository)."""
    paths = sysconfig.get_paths()
    return root in {Path(paths[name]).resolve() for name in ("purelib", "platlib")} or "site-packages" in root.parts


def _in_checkout(root: Path) -> bool:
    """Whether a repository tracks the package; git is needed only where there is a repository."""
    if not any((parent / ".git").exists() for parent in (root, *root.parents)):
        return False
    package = f"{_PACKAGE}/__init__.py"
    return bool(_git(root, "ls-files", "--", package).strip())


def _git_environment() -> dict[str, str]:
    """Without the variables by which a hook or an alias of another repository would speak for ours."""
    kept = {name: value for name, value in os.environ.items() if not _redirects_git(name)}
    # No opportunistic refresh of the index; messages as we know them.
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def _redirects_git(name: str) -> bool:
    return name.startswith("GIT_") and not name.startswith(("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_SSH"))


def _git(root: Path, *arguments: str, variables: dict[str, str] | None = None) -> bytes:
    """What git prints.

    Raises:
        SpdToolsError: when there is no git or it fails.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=_git_environment() | (variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise SpdToolsError(f"{root} is a git checkout and there is no git here; install git, then submit.") from None
    if done.returncode != 0:
        raise _git_failure(root, done.stderr)
    return done.stdout


def _git_failure(root: Path, said: bytes) -> SpdToolsError:
    return SpdToolsError(f"git does not work in {root} ({_first(said)}); mend the repository, then submit.")


def _first(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or ["it said nothing"])[0]
