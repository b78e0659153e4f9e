import anyio
import pytest

from mcp_server import http
from mcp_server.http import TOKEN_VARIABLE, SharedToken, serve_http
from spd_tools.cli.mcp import add_commands
from spd_tools.errors import SpdToolsError

TOKEN = "a long random token"


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch):
    def refuse(host, port):
        raise AssertionError("it went as far as to listen")

    monkeypatch.setattr(http, "_listen", refuse)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_other_addresses_than_loopback_need_a_token(host):
    with pytest.raises(SpdToolsError, match=f"set {TOKEN_VARIABLE}"):
        serve_http(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_short_token_is_none(host, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(SpdToolsError, match="fewer than 16"):
        serve_http(host, 0)


@pytest.mark.parametrize(
    ("token", "known"), [(TOKEN, True), (TOKEN + "x", False), ("", False), (TOKEN[:-1], False), ("é\udcff", False)]
)
def test_only_the_token_opens(token, known):
    found = anyio.run(SharedToken(TOKEN).verify_token, token)
    assert (found is not None) is known


def test_an_address_that_is_taken_is_said_in_one_sentence(monkeypatch):
    import socket

    monkeypatch.undo()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SpdToolsError, match="cannot be listened at"):
            serve_http("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_port_that_is_none_is_not_understood(port):
    import argparse

    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    with pytest.raises(SystemExit) as leaving:
        parser.parse_args(["mcp", "--http", port])
    assert leaving.value.code == 2
