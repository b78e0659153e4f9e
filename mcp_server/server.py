"""The server: all tools, resources and prompts over one set of open harvests and one model lock."""

from __future__ import annotations

from importlib.metadata import version

from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.tools import Tool

from mcp_server.answers import QUOTED
from mcp_server.experimenter import Experimenter
from mcp_server.input_tools import InputExperiments
from mcp_server.jobs_tools import Jobs
from mcp_server.look_tools import Look
from mcp_server.model import Models
from mcp_server.notes_tools import Notes
from mcp_server.output_tools import OutputExperiments
from mcp_server.prompts import add_prompts
from mcp_server.resources import Resources
from mcp_server.runs import Runs

INSTRUCTIONS = f"""\
spd-tools: what do the components of a decomposed neural network respond to, and what do they do? A harvest has counted
every component over a data set; these tools look at the counts, experiment on the live model, and keep a record.

Components are named LAYER:INDEX (h.0.mlp.c_fc:12). `run` may be left out when there is only one; the tool runs lists
them. Order of an investigation: triage -> overview -> hypothesis (at least two) -> the experiment that tells them apart
(sweep, minimal_context, interact) -> ablate and direct_effect (output side) -> generate_and_test on fresh texts ->
label. The prompt investigate spells it out.

Counts are observational: they suggest, they prove nothing. Experiments store their result as evidence and return its
id; a label is supported only by evidence, never by conviction. Statistics over firings cannot show suppression; ablate
can. {QUOTED}
"""


def all_tools(runs: Runs, models: Models) -> list[Tool]:
    """Every tool of the server."""
    experimenter = Experimenter(runs, models)
    return [
        *Look(runs, models).tools(),
        *OutputExperiments(experimenter).tools(),
        *InputExperiments(experimenter).tools(),
        *Notes(runs).tools(),
        *Jobs().tools(),
    ]


def make_server(
    models: Models | None = None, *, token_verifier: TokenVerifier | None = None, auth: AuthSettings | None = None
) -> MCPServer:
    """A server that has not begun to listen.

    Args:
        models: who waits how long for the model; default: the usual.
        token_verifier: who may call, over HTTP.
        auth: goes with it.
    """
    runs = Runs()
    server = MCPServer(
        "spd-tools",
        title="spd-tools",
        version=version("spd-tools"),
        instructions=INSTRUCTIONS,
        tools=all_tools(runs, models or Models()),
        log_level="WARNING",
        token_verifier=token_verifier,
        auth=auth,
    )
    Resources(runs).add_to(server)
    add_prompts(server)
    return server


def serve_stdio() -> None:
    """Serve one client over stdin and stdout until it closes them."""
    make_server().run("stdio")
