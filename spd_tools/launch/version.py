"""Which spd-tools this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from spd_tools.errors import SpdToolsError


def installed_version() -> str:
    """Version of the installed package.

    Raises:
        SpdToolsError: when it is not installed, only on the path.
    """
    try:
        return version("spd-tools")
    except PackageNotFoundError:
        raise SpdToolsError(
            "spd-tools is not installed, only on the path; install it with `pip install -e .`."
        ) from None
