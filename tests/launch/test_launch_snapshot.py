"""What a job's folder holds of the code: all that was committed, nothing that was not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.launch import snapshot as module
from spd_tools.launch.snapshot import read_snapshot, take_snapshot


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file, a link as what it points to."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small repository shaped like ours, from which the package seems to be imported."""
    root = tmp_path / "checkout"
    (root / "spd_tools").mkdir(parents=True)
    (root / "skills").mkdir()
    (root / "spd_tools/__init__.py").write_text("ANSWER = 1\n")
    (root / "spd_tools/weights.bin").write_bytes(bytes(range(256)))
    (root / "skills/page.md").write_text("a skill\n")
    (root / "spd_tools/skills").symlink_to("../skills")
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / ".gitignore").write_text("__pycache__/\nout/\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "_root", lambda: root)
    return root


def test_the_commit_is_copied(checkout, tmp_path):
    taken = take_snapshot(tmp_path / "job")
    assert taken.kind == "commit"
    assert taken.commit == git(checkout, "rev-parse", "HEAD")
    assert not taken.dirty
    assert taken.code == tmp_path / "job/code"
    tracked = git(checkout, "ls-files").splitlines()
    assert sorted(contents(taken.code)) == sorted(tracked)
    assert (taken.code / "spd_tools/weights.bin").read_bytes() == bytes(range(256))
    assert os.access(taken.code / "run", os.X_OK)
    assert not (tmp_path / "job/changes.patch").exists()


def test_links_stay_links(checkout, tmp_path):
    code = take_snapshot(tmp_path / "job").code
    assert code is not None
    assert os.readlink(code / "spd_tools/skills") == "../skills"
    assert (code / "spd_tools/skills/page.md").read_text() == "a skill\n"


def test_untracked_and_ignored_files_stay_behind(checkout, tmp_path):
    (checkout / "spd_tools/stray.py").write_text("")
    (checkout / "spd_tools/__pycache__").mkdir()
    (checkout / "spd_tools/__pycache__/kernel.nbi").write_text("")
    taken = take_snapshot(tmp_path / "job")
    assert not taken.dirty
    assert taken.code is not None
    assert sorted(contents(taken.code)) == sorted(git(checkout, "ls-files").splitlines())


def test_later_edits_do_not_reach_it(checkout, tmp_path):
    code = take_snapshot(tmp_path / "job").code
    (checkout / "spd_tools/__init__.py").write_text("ANSWER = 2\n")
    assert code is not None
    assert (code / "spd_tools/__init__.py").read_text() == "ANSWER = 1\n"


def test_uncommitted_changes_are_refused(checkout, tmp_path):
    for number in range(5):
        (checkout / f"file{number}").write_text("old\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "more")
    for number in range(5):
        (checkout / f"file{number}").write_text("new\n")
    with pytest.raises(SpdToolsError, match=r"file0, file1, file2 and 2 more; .*--allow-dirty\.$"):
        take_snapshot(tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_a_touched_file_is_not_changed(checkout, tmp_path):
    os.utime(checkout / "spd_tools/__init__.py", (1, 1))
    assert not take_snapshot(tmp_path / "job").dirty


@pytest.mark.parametrize(
    "configuration", [{}, {"diff.noprefix": "true", "diff.external": "false", "color.ui": "always"}]
)
def test_allowed_changes_are_taken_along(checkout, tmp_path, configuration):
    for name, value in configuration.items():
        git(checkout, "config", name, value)
    (checkout / "spd_tools/__init__.py").write_text("ANSWER = 2  \r\n")
    (checkout / "spd_tools/weights.bin").write_bytes(bytes(reversed(range(256))))
    (checkout / "skills/page.md").unlink()
    (checkout / "spd_tools/staged.py").write_text("NEW = 1\n")
    git(checkout, "add", "spd_tools/staged.py")
    (checkout / "spd_tools/stray.py").write_text("")
    (checkout / "run").rename(checkout / "rân dom")
    git(checkout, "add", "-A", "run", "rân dom")
    expected = contents(checkout)
    taken = take_snapshot(tmp_path / "job", allow_dirty=True)
    assert taken.dirty
    assert taken.code is not None
    wanted = {name: data for name, data in expected.items() if not name.startswith(".git/")}
    del wanted["spd_tools/stray.py"]
    assert contents(taken.code) == wanted
    assert (tmp_path / "job/changes.patch").stat().st_size > 0


def test_changes_are_taken_along_into_the_repository_itself(checkout):
    """SPD_OUT_DIR may be an ignored folder of the checkout, where git takes paths from its root."""
    (checkout / "spd_tools/__init__.py").write_text("ANSWER = 2\n")
    code = take_snapshot(checkout / "out/job", allow_dirty=True).code
    assert code is not None
    assert (code / "spd_tools/__init__.py").read_text() == "ANSWER = 2\n"


def test_git_is_only_read(checkout, tmp_path):
    os.utime(checkout / "run", (1, 1))  # which git status would note in the index
    (checkout / "spd_tools/__init__.py").write_text("ANSWER = 2\n")
    before = contents(checkout / ".git")
    take_snapshot(tmp_path / "job", allow_dirty=True)
    assert contents(checkout / ".git") == before


def test_of_a_larger_repository_only_the_part_with_the_package_is_taken(checkout, tmp_path, monkeypatch):
    big = tmp_path / "big"
    (big / "vendor").mkdir(parents=True)
    (big / "secret.txt").write_text("")
    shutil.copytree(checkout, big / "vendor/tools", symlinks=True, ignore=shutil.ignore_patterns(".git"))
    git(tmp_path, "init", "-q", str(big))
    git(big, "add", ".")
    git(big, "commit", "-q", "-m", "all")
    (big / "secret.txt").write_text("changed, and none of our business")
    (big / "vendor/tools/spd_tools/__init__.py").write_text("ANSWER = 2\n")
    monkeypatch.setattr(module, "_root", lambda: big / "vendor/tools")
    code = take_snapshot(tmp_path / "job", allow_dirty=True).code
    assert code is not None
    assert contents(code) == contents(big / "vendor/tools")


def test_the_folder_keeps_its_first_snapshot(checkout, tmp_path):
    first = take_snapshot(tmp_path / "job")
    (checkout / "spd_tools/__init__.py").write_text("ANSWER = 2\n")
    git(checkout, "commit", "-q", "-a", "-m", "second")
    assert take_snapshot(tmp_path / "job") == first == read_snapshot(tmp_path / "job")


def test_what_a_killed_process_left_is_replaced(checkout, tmp_path):
    (tmp_path / "job/code/spd_tools").mkdir(parents=True)
    (tmp_path / "job/code/spd_tools/leftover.py").write_text("")
    (tmp_path / "job/changes.patch").write_text("of other changes")
    code = take_snapshot(tmp_path / "job").code
    assert code is not None
    assert sorted(contents(code)) == sorted(git(checkout, "ls-files").splitlines())
    assert not (tmp_path / "job/changes.patch").exists()


def test_a_failure_leaves_nothing(checkout, tmp_path, monkeypatch):
    def full(aside: Path, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_put_in_place", full)
    with pytest.raises(SpdToolsError, match="No space left on device"):
        take_snapshot(tmp_path / "job")
    assert list((tmp_path / "job").iterdir()) == []
    assert read_snapshot(tmp_path / "job") is None


def test_an_installed_wheel_is_only_named(tmp_path, monkeypatch):
    root = tmp_path / "env/lib/python3.11/site-packages"
    (root / "spd_tools").mkdir(parents=True)
    (root / "spd_tools/__init__.py").write_text("")
    git(tmp_path, "init", "-q", str(tmp_path))  # somebody's project that holds the environment
    monkeypatch.setattr(module, "_root", lambda: root)
    taken = take_snapshot(tmp_path / "job")
    assert (taken.kind, taken.commit, taken.code) == ("wheel", None, None)
    assert taken.version
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["snapshot.json"]


def test_a_package_that_the_repository_around_it_does_not_track_is_no_checkout(tmp_path, monkeypatch):
    (tmp_path / "copy/spd_tools").mkdir(parents=True)
    (tmp_path / "copy/spd_tools/__init__.py").write_text("")
    git(tmp_path, "init", "-q", str(tmp_path))
    monkeypatch.setattr(module, "_root", lambda: tmp_path / "copy")
    assert take_snapshot(tmp_path / "job").kind == "wheel"


def test_a_job_hands_its_own_code_on(checkout, tmp_path, monkeypatch):
    (checkout / "spd_tools/__init__.py").write_text("ANSWER = 2\n")
    first = take_snapshot(tmp_path / "job", allow_dirty=True)
    assert first.code is not None
    before = contents(first.code)
    (first.code / "spd_tools/__pycache__").mkdir()
    (first.code / "spd_tools/__pycache__/kernel.nbi").write_text("")
    monkeypatch.setattr(module, "_root", lambda: first.code)
    second = take_snapshot(tmp_path / "other")
    assert second == first.model_copy(update={"code": tmp_path / "other/code"})
    assert contents(tmp_path / "other/code") == before
    assert (tmp_path / "other/changes.patch").read_bytes() == (tmp_path / "job/changes.patch").read_bytes()


def test_without_git_a_checkout_says_so(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpdToolsError, match="there is no git here; install git"):
        take_snapshot(tmp_path / "job")


@pytest.mark.parametrize("damage", ["HEAD", "refs"])
def test_a_broken_repository_says_so(checkout, tmp_path, damage):
    broken = checkout / ".git" / damage
    if broken.is_dir():
        shutil.rmtree(broken)
    else:
        broken.unlink()
    with pytest.raises(SpdToolsError, match=r"git does not work in .*checkout \(fatal: .*\); mend the repository"):
        take_snapshot(tmp_path / "job")


def test_a_repository_without_a_commit_says_so(checkout, tmp_path):
    git(checkout, "update-ref", "-d", "HEAD")
    with pytest.raises(SpdToolsError, match="git does not work in"):
        take_snapshot(tmp_path / "job")


def test_variables_of_another_repository_are_not_followed(checkout, tmp_path, monkeypatch):
    """A git hook runs with these set."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere/index"))
    assert take_snapshot(tmp_path / "job").kind == "commit"


def test_the_environment_puts_the_code_before_everything_else(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(checkout), str(tmp_path / "own")]))
    variables = take_snapshot(tmp_path / "job").environment()
    assert variables["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "job/code"), str(tmp_path / "own")]
    script = "import spd_tools; print(spd_tools.ANSWER)"
    (checkout / "spd_tools/__init__.py").write_text("ANSWER = 2\n")
    command = [shutil.which("python3") or "python3", "-c", script]
    done = subprocess.run(command, cwd=checkout, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("text", ["{", '{"kind": "commit"}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "snapshot.json").write_text(text)
    with pytest.raises(SpdToolsError, match=r"snapshot\.json cannot be read"):
        read_snapshot(tmp_path)


def test_missing_code_is_named(checkout, tmp_path):
    take_snapshot(tmp_path / "job")
    shutil.rmtree(tmp_path / "job/code")
    with pytest.raises(SpdToolsError, match="code of job is gone"):
        take_snapshot(tmp_path / "job")


def test_a_folder_that_has_moved_has_its_code_with_it(checkout, tmp_path):
    take_snapshot(tmp_path / "old/job")
    assert str(tmp_path) not in (tmp_path / "old/job/snapshot.json").read_text()
    (tmp_path / "old").rename(tmp_path / "new")
    moved = read_snapshot(tmp_path / "new/job")
    assert moved is not None
    assert moved.code == tmp_path / "new/job/code"
    assert moved.environment()["PYTHONPATH"].split(os.pathsep)[0] == str(moved.code)
