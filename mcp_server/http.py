"""Streamable HTTP: on loopback for whoever is on this machine, elsewhere only for whoever knows the token."""

from __future__ import annotations

import hmac
import os
import socket
import sys

from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from pydantic import AnyHttpUrl

from mcp_server.server import make_server
from spd_tools.errors import SpdToolsError

TOKEN_VARIABLE = "SPD_TOOLS_MCP_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN = 16
PATH = "/mcp"


class SharedToken:
    """Knows the one token that opens the door."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Who comes with a token; None for a wrong one. Takes as long for any token of one length."""
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            return None
        return AccessToken(token=token, client_id="spd-tools", scopes=[])


def serve_http(host: str, port: int) -> None:
    """Serve many clients over HTTP until interrupted.

    Where ``SPD_TOOLS_MCP_TOKEN`` is set, every request has to bring it as a bearer token.

    Args:
        host: address to listen at.
        port: 0 takes any free one; the address is printed on stderr.

    Raises:
        SpdToolsError: when another address than loopback is asked for without a token, a token is too short, or the
            address cannot be had.
    """
    import anyio
    import uvicorn

    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token and host not in LOOPBACK:
        raise SpdToolsError(
            f"{host} is not this machine alone, and whoever reaches it could run everything here; set {TOKEN_VARIABLE} "
            "to a long random token, or leave --host out."
        )
    if token and len(token) < MIN_TOKEN:
        raise SpdToolsError(f"{TOKEN_VARIABLE} has fewer than {MIN_TOKEN} characters; take a long random one.")
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if token:
        auth = AuthSettings(issuer_url=AnyHttpUrl(url), resource_server_url=None)
        server = make_server(token_verifier=SharedToken(token), auth=auth)
    else:
        server = make_server()
    # Without its own logging: uvicorn's prints requests on stdout.
    config = uvicorn.Config(server.streamable_http_app(host=host), log_config=None, access_log=False)
    print(f"spd-tools is listening at {url}{PATH}", file=sys.stderr, flush=True)
    anyio.run(lambda: uvicorn.Server(config).serve(sockets=[listening]))


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen()  # now: whoever reads the address may come before the server serves
    except (OSError, OverflowError) as error:
        raise SpdToolsError(f"{host}:{port} cannot be listened at ({error}); choose another --http PORT.") from None
    return listening
