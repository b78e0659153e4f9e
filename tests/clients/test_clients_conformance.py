"""The conformance suite of the protocol, against the HTTP server: the scenarios that need no fixture tools."""

import pytest
from programs import CONFORMANCE, NODE, run_program

SCENARIOS = [
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "tools-call-error",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(home, http_url, tmp_path, scenario):
    done = run_program([NODE, CONFORMANCE, "server", "--url", http_url, "--scenario", scenario], home, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout, done.stdout
