"""Server and skills in a project's or a user's settings of Claude Code: what would change, then changing it.

A record beside the skills (``spd-tools.json``) holds what was written, by content. Only what still is as it was
written is ever replaced or removed, so nothing of anybody else's is overwritten.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_bytes
from spd_tools.json_settings import ServerSettings, json_object, read_bytes

SERVER = "spd-tools"
RECORD = "spd-tools.json"


@dataclass(frozen=True)
class Target:
    """Where Claude Code looks."""

    config: Path
    """JSON with ``mcpServers``."""
    folder: Path
    """Holds ``skills/`` and ``commands/``."""

    @classmethod
    def project(cls, directory: Path) -> Target:
        """A project's own settings, which its repository may share.

        Raises:
            SpdToolsError: when there is no such directory.
        """
        if not directory.is_dir():
            raise SpdToolsError(f"There is no directory {directory}; --project takes the root of a project.")
        return cls(config=directory / ".mcp.json", folder=directory / ".claude")

    @classmethod
    def user(cls, environment: Mapping[str, str]) -> Target:
        """The settings of this user, in all projects."""
        moved = environment.get("CLAUDE_CONFIG_DIR")
        home = Path("~").expanduser()
        return cls(config=Path(moved or home) / ".claude.json", folder=Path(moved) if moved else home / ".claude")

    @property
    def record(self) -> Path:
        """What was written here."""
        return self.folder / RECORD


@dataclass(frozen=True)
class Change:
    """One file, before and after; None where it does not exist."""

    path: Path
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Plan:
    """What would be done."""

    changes: list[Change]
    """In the order in which they are to be made."""
    remarks: list[str]
    """Sentences about what stays as it is."""
    folders: list[Path]
    """To be removed afterwards if nothing is left in them, deepest first."""


def skills() -> dict[str, bytes]:
    """The skills of this installation: path below ``skills/`` -> content."""
    return {
        f"{skill.name}/SKILL.md": (skill / "SKILL.md").read_bytes()
        for skill in sorted((files("spd_tools") / "skills").iterdir(), key=lambda entry: entry.name)
    }


def server_entry() -> dict[str, Any]:
    """How Claude Code starts the server of this installation, whatever is on its PATH.

    Raises:
        SpdToolsError: when the installation has no command.
    """
    command = Path(sysconfig.get_path("scripts")) / "spd-tools"
    if not command.is_file():
        raise SpdToolsError(f"There is no {command} that Claude Code could start; install the package with pip.")
    return {"command": str(command), "args": ["mcp"], "alwaysLoad": True}


def plan_install(target: Target, entry: dict[str, Any]) -> Plan:
    """What would put the server and the skills there; no changes if all is there already.

    Args:
        entry: from ``server_entry``.

    Raises:
        SpdToolsError: when something of somebody else's is in the way, or a file is not the JSON that it should be.
    """
    record = _Record.read(target.record)
    changes = [*_server_change(target, record, entry), *_skill_changes(target, record)]
    remarks = [
        f"{command} is hidden by the skill of the same name."
        for name in _skill_names()
        if (command := target.folder / "commands" / f"{name}.md").exists()
    ]
    if changes:
        record.note_folders(target, changes)
        changes.insert(0, _change(target.record, record.bytes()))
    return Plan([change for change in changes if change.before != change.after], remarks, [])


def plan_removal(target: Target) -> Plan:
    """What would undo everything that ``plan_install`` has ever put there, and nothing else.

    Raises:
        SpdToolsError: when nothing was put there, or a file is not the JSON that it should be.
    """
    record = _Record.read(target.record)
    if not target.record.exists():
        raise SpdToolsError(f"install-claude has put nothing into {target.folder}: there is no {RECORD} in it.")
    changes: list[Change] = []
    remarks: list[str] = []
    config = ServerSettings(target.config)
    if config.server(SERVER) in record.servers:
        after = config.without_server(SERVER, keep_section=not record.section_made)
        changes.append(_change(target.config, after if after or record.config_made else b"{}\n"))
    elif config.server(SERVER) is not None:
        remarks.append(f"{target.config} keeps its server {SERVER}, which was changed since.")
    for path in record.files:
        change = _change(target.folder / path, None)
        if change.before is not None and _digest(change.before) in record.files[path]:
            changes.append(change)
        elif change.before is not None:
            remarks.append(f"{change.path} is kept, as it was changed since.")
    changes.append(_change(target.record, None))
    return Plan(changes, remarks, [target.folder / folder for folder in record.folders])


def carry_out(plan: Plan) -> None:
    """Make the changes, each file whole or not at all.

    Raises:
        SpdToolsError: when a file is no longer as it was when the plan was made, or cannot be written.
    """
    for change in plan.changes:
        if read_bytes(change.path) != change.before:
            raise SpdToolsError(f"{change.path} has just been changed by somebody else; look at it and run again.")
        if change.after is None:
            change.path.unlink()
        else:
            _write(change.path, change.after)
    for folder in plan.folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


class _Record(BaseModel):
    """What was written, by content; grows with every installation until it is removed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    config_made: bool = False
    section_made: bool = False
    servers: list[dict[str, Any]] = []
    files: dict[Annotated[str, Field(pattern=r"^skills/[a-z-]+/SKILL\.md$")], list[str]] = {}
    """Path below the folder -> digests of everything that was ever written there."""
    folders: list[Annotated[str, Field(pattern=r"^(\.|skills|skills/[a-z-]+)$")]] = []
    """Made below the folder, deepest first."""

    @classmethod
    def read(cls, path: Path) -> _Record:
        try:
            return cls.model_validate(json_object(path, read_bytes(path)))
        except ValidationError as error:
            raise SpdToolsError(f"{path} is not what install-claude writes; remove it, then run again.") from error

    def note_file(self, path: str, content: bytes) -> None:
        digests = self.files.setdefault(path, [])
        if _digest(content) not in digests:
            digests.append(_digest(content))

    def note_folders(self, target: Target, changes: list[Change]) -> None:
        needed = {parent for change in changes for parent in change.path.parents if _is_below(parent, target.folder)}
        missing = {str(folder.relative_to(target.folder)) for folder in needed if not folder.exists()}
        self.folders = sorted(missing | set(self.folders), key=lambda folder: len(Path(folder).parts), reverse=True)

    def bytes(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


def _server_change(target: Target, record: _Record, entry: dict[str, Any]) -> Iterator[Change]:
    config = ServerSettings(target.config)
    present = config.server(SERVER)
    if present == entry:
        return
    if present is not None and present not in record.servers:
        raise SpdToolsError(
            f"{target.config} has another server called {SERVER}; rename or remove that, then run again."
        )
    if present is None:
        record.config_made = not config.exists
        record.section_made = not config.has_section
    if entry not in record.servers:
        record.servers.append(entry)
    yield _change(target.config, config.with_server(SERVER, entry))


def _skill_changes(target: Target, record: _Record) -> Iterator[Change]:
    for path, content in skills().items():
        below = f"skills/{path}"
        change = _change(target.folder / below, content)
        if change.before == content:
            continue
        if change.before is not None and _digest(change.before) not in record.files.get(below, []):
            raise SpdToolsError(f"{change.path} is not ours to overwrite; rename or remove it, then run again.")
        record.note_file(below, content)
        yield change


def _skill_names() -> list[str]:
    return [path.partition("/")[0] for path in skills()]


def _is_below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _change(path: Path, after: bytes | None) -> Change:
    return Change(path, read_bytes(path), after)


def _write(path: Path, content: bytes) -> None:
    """Keeps the permissions of a file that exists (the user's settings hold secrets), and a link to it a link."""
    place = path.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else None
    except OSError as error:
        raise SpdToolsError(f"Could not write {path}: {error.strerror}.") from error
    if mode is None:
        write_bytes(place, content)
        return
    mask = os.umask(0o077)
    try:
        write_bytes(place, content)
    finally:
        os.umask(mask)
    place.chmod(mode)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
