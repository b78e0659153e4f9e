"""Processes that write annotations, to be run beside each other and to be killed."""

from __future__ import annotations

import subprocess
import sys

SETUP = """
import os, sys
from spd_tools.annotations import Annotations, LabelDraft
who, n = sys.argv[1], int(sys.argv[2])
notes = Annotations.open("some-run", "f" * 64)

def write_labels(who):
    for number in range(n):
        draft = LabelDraft(input_view=f"label {number} of {who}")
        done = notes.set_label(f"h.0.mlp.c_fc:{number % 50}", draft, author=who, idempotency_key=f"{who} {number}")
        os.write(1, f"{done.label.id}\\n".encode())
"""
WRITE_LABELS = SETUP + "write_labels(who)"
"""Writes ``n`` labels on 50 components; says the id of each once it is written."""
EIGHT_WRITE_LABELS = (
    SETUP
    + """
children = []
for number in range(8):
    child = os.fork()
    if not child:
        write_labels(f"{who} {number}")
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
)
"""The same in eight processes; says the ids of all."""
WRITE_LOG = (
    SETUP
    + """
print("ready", flush=True)
sys.stdin.readline()
for number in range(n):
    print(notes.add_log(f"{who} {number}", author=who).id)
"""
)
"""Waits for a line, then writes ``n`` entries."""


def start(script: str, who: str, n: int) -> subprocess.Popen[str]:
    """Run one of the scripts above."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", script, who, str(n)], text=True, **pipes)
