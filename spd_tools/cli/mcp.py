"""`mcp`: the same functions for programs that speak the Model Context Protocol."""

from __future__ import annotations

import argparse

from spd_tools.cli.arguments import Subparsers


def add_commands(commands: Subparsers) -> None:
    """Add `mcp`."""
    summary = "serve the tools to MCP clients such as Claude Code, over stdin and stdout or HTTP"
    mcp = commands.add_parser("mcp", help=summary, description=summary)
    mcp.add_argument("--http", type=_port, metavar="PORT", help="over HTTP at this port (0: any free one) instead")
    mcp.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="with --http: address to listen at; other than this machine's own only with SPD_TOOLS_MCP_TOKEN set",
    )
    mcp.set_defaults(handler=_mcp)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return port


_port.__name__ = "port"  # argparse says "invalid port value: 'x'"


def _mcp(args: argparse.Namespace) -> None:
    if args.http is None:
        from mcp_server.server import serve_stdio

        serve_stdio()
    else:
        from mcp_server.http import serve_http

        serve_http(args.host, args.http)
