"""The MCP door of spd-tools."""
