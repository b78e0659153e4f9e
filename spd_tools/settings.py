"""Environment -> Settings. Every path below SPD_OUT_DIR is made here and nowhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

AUTHOR_VARIABLE = "SPD_TOOLS_AUTHOR"
"""Who writes annotations, where nobody says so."""


def author_from_environment() -> str | None:
    """Who writes annotations by AUTHOR_VARIABLE; None where it is not set."""
    return os.environ.get(AUTHOR_VARIABLE) or None


@dataclass(frozen=True)
class Settings:
    """Where things lie."""

    out_dir: Path
    """Root of everything that is written (``SPD_OUT_DIR``, default ``~/spd_out``)."""

    @classmethod
    def from_environment(cls) -> Settings:
        """Settings of this process, read anew at each call."""
        return cls(out_dir=Path(os.environ.get("SPD_OUT_DIR") or "~/spd_out").expanduser())

    @property
    def runs_dir(self) -> Path:
        """Downloaded runs, one folder each."""
        return self.out_dir / "runs"

    @property
    def tokens_dir(self) -> Path:
        """Token files, one folder per fingerprint."""
        return self.out_dir / "tokens"

    @property
    def harvests_dir(self) -> Path:
        """All harvests: <run_id>/<harvest_id>/."""
        return self.out_dir / "harvest"

    @property
    def annotations_dir(self) -> Path:
        """Annotations, one file per run."""
        return self.out_dir / "annotations"

    @property
    def decompositions_dir(self) -> Path:
        """Runs that ``decompose`` trains."""
        return self.out_dir / "decompositions"

    @property
    def targets_dir(self) -> Path:
        """Toy targets that are trained for them."""
        return self.out_dir / "targets"

    @property
    def jobs_dir(self) -> Path:
        """Detached jobs, one folder each."""
        return self.out_dir / "jobs"

    def run_cache(self, run_id: str) -> Path:
        """Folder of one downloaded run."""
        return self.runs_dir / run_id

    def token_cache(self, fingerprint: str) -> Path:
        """Folder of one token file."""
        return self.tokens_dir / fingerprint

    def harvest(self, run_id: str, harvest_id: str) -> Path:
        """Folder of one harvest."""
        return self.harvests_dir / run_id / harvest_id

    def annotations(self, run_id: str) -> Path:
        """Annotations of one run."""
        return self.annotations_dir / f"{run_id}.sqlite"

    def interpret_results(self, run_id: str) -> Path:
        """Labels of one run by language models, in the layout of SPD's own tools."""
        return self.out_dir / "interpret" / run_id / "results.jsonl"
