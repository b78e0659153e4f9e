"""From a function to a tool: its parameters are what the signature says, its description the docstring or a guide."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations
from pydantic import ConfigDict, ValidationError

from mcp_server.answers import MAX_ERROR, answering, inert

_WHERE = 100

READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
"""Looks at what is stored."""
EXPERIMENTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
"""Adds evidence; the same question again adds nothing."""
WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
"""Adds to the record, in which nothing is ever overwritten."""
STARTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
"""Starts a process that may download data."""


class TextTool(Tool):
    """A tool that says in one sentence what does not fit in a call."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        """Call it."""
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(self._misfit(error.__cause__)) from error.__cause__
            raise

    def _misfit(self, error: ValidationError) -> str:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = inert(".".join(map(str, first["loc"])), _WHERE)
        if first["type"] == "extra_forbidden":
            return f"{self.name} has no parameter {where}; it takes {', '.join(self.parameters['properties'])}."
        return f"{self.name}: the parameter {where} does not fit ({inert(first['msg'], MAX_ERROR)}); correct it."


def tool(
    function: Callable[..., Any], title: str, annotations: ToolAnnotations, description: str | None = None
) -> Tool:
    """A tool whose answer is text and which refuses parameters that it does not have.

    ``description``: what a client is told about it; default: the function's docstring.
    """
    made = TextTool.from_function(
        answering(function),
        title=title,
        description=description or inspect.cleandoc(function.__doc__ or ""),
        annotations=annotations,
        structured_output=False,
    )
    arguments = made.fn_metadata.arg_model

    class Strict(arguments):
        model_config = ConfigDict(extra="forbid", title=arguments.__name__)

    made.fn_metadata.arg_model = Strict
    made.parameters = Strict.model_json_schema(by_alias=True)
    return made
