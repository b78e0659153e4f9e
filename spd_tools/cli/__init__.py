"""`spd-tools`: parsing and printing only; every command calls one function of the package.

Exit codes: 0 done; 1 it failed and said why in one sentence on stderr; 2 the parser refused; 130 interrupted; 141
whoever read stdout went away. Commands import what is heavy inside their handlers, so that --help stays instant.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from spd_tools.cli.parser import build_parser
from spd_tools.errors import SpdToolsError

INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (the parser itself leaves with SystemExit)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = build_parser().parse_args(argv)
        args.handler(args)
        sys.stdout.flush()
    except SpdToolsError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; that must not fail loudly either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail(f"{error.filename or 'Input or output'}: {error.strerror or error}.")
    except (MemoryError, RuntimeError) as error:
        # CUDA's out of memory is a RuntimeError, known by its name: torch is not imported for it.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return _fail("There is not enough memory; use a smaller batch size or memory budget.")
        raise
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _fail(sentence: str) -> int:
    from spd_tools.render.safe import visible

    print(visible(sentence), file=sys.stderr)
    return 1
