"""How much memory a benchmark takes at most."""

from __future__ import annotations

import threading
from pathlib import Path


class PeakMemory:
    """Largest anonymous + shared memory of this process, looked at fifty times a second; mapped files are not in it."""

    peak = 0.0

    def __enter__(self) -> PeakMemory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
            self.peak = max(self.peak, kilobytes * 1024)
