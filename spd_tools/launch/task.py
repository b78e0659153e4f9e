"""What submitit is given to run, as a pickle of four small values. Everything else lies in the job's folder.

Nothing but the standard library is imported here before the import path has been cleaned: where the job brought its own
code, no module of the checkout that it was submitted from may be found any more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

CODE = "code"


class Task:
    """One attempt at (step, rank) of a job; may be run again at any time, and goes on from what was saved."""

    def __init__(self, folder: str, step: str, rank: int, submission: int) -> None:
        self.folder = folder
        self.step = step
        self.rank = rank
        self.submission = submission

    def __call__(self) -> None:
        """Run the task; leaves with SystemExit when it did not finish."""
        code = Path(self.folder) / CODE
        if code.is_dir():
            isolate(code)
        from spd_tools.launch.run_task import run_task

        run_task(Path(self.folder), self.step, self.rank, self.submission)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs after a time-out or a preemption: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def isolate(code: Path) -> None:
    """Let ``spd_tools`` and ``mcp_server`` be imported from ``code`` alone.

    Raises:
        RuntimeError: when they have been imported from elsewhere already.
    """
    import spd_tools

    if Path(spd_tools.__file__).resolve().parent != (code / "spd_tools").resolve():
        raise RuntimeError(f"spd_tools was imported from {spd_tools.__file__} instead of {code}")
    others = [path for path in sys.path if path != str(code) and not _leads_to_a_copy(path)]
    sys.path[:] = [str(code), *others]
    # An editable installation finds modules of the checkout by a finder of its own.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _finds_a_copy(finder)]
    sys.path_importer_cache.clear()


def _leads_to_a_copy(entry: str) -> bool:
    if entry.startswith("__editable__.") and "spd_tools" in entry:
        return True
    return (Path(entry) / "spd_tools" / "__init__.py").is_file()


def _finds_a_copy(finder: Any) -> bool:
    module = getattr(finder, "__module__", "")
    if not module.startswith("__editable__"):
        return False
    mapping = getattr(sys.modules.get(module), "MAPPING", {})
    return "spd_tools" in mapping
