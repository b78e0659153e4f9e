"""Errors that a user can cause and mend."""


class SpdToolsError(ValueError):
    """Bad input: one sentence that names the thing, what is wrong with it and what to do.

    The CLI prints the sentence and exits with 1; no traceback is shown.
    """
