"""The MCP door: thin tools over the same functions as the command line."""
