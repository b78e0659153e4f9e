"""Where a run's tokenizer is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer that has been named but not read."""

    name: str | None
    """Absolute path of a tokenizer file or hub name; None when the run names none."""
    run: str
    """For messages."""

    def read(self) -> Tokenizer:
        """Read the file, or fetch it from the hub (through its cache).

        Raises:
            SpdToolsError: when there is none or it cannot be had.
        """
        from tokenizers import Tokenizer

        if self.name is None:
            raise SpdToolsError(f"Run {self.run} names no tokenizer; give one with --tokenizer.")
        try:
            if Path(self.name).is_absolute():
                return Tokenizer.from_file(self.name)
            return Tokenizer.from_pretrained(self.name)
        # The tokenizers library raises bare Exception.
        except Exception as error:
            raise SpdToolsError(
                f"The tokenizer {self.name} of run {self.run} cannot be read from disk or hub; "
                "connect to the hub or give a local file with --tokenizer."
            ) from error


def find_tokenizer(name: str | None, run_dir: Path, target_dir: Path | None) -> str | None:
    """Absolute path of the tokenizer file that a run means, else the hub name it gives, else None.

    A local file (or a folder's tokenizer.json) is looked for beside the run first, then from the current folder. Where
    the run names no tokenizer, or a file that is not on this machine, the target run's tokenizer.json is meant.
    """
    if name:
        for base in (run_dir, Path.cwd()):
            path = base / Path(name).expanduser()
            for file in (path, path / "tokenizer.json"):
                if file.is_file():
                    return str(file.resolve())
    names_file = bool(name) and (Path(name).is_absolute() or name.startswith(("~", ".")) or name.endswith(".json"))
    if (not name or names_file) and target_dir is not None and (target_dir / "tokenizer.json").is_file():
        return str((target_dir / "tokenizer.json").resolve())
    return name or None
