"""What the tests know about the planted decomposition."""

KEY = "h.0.mlp.down_proj:13"
"""Tools, with the rare and extreme `needle`."""
TOOLS = ("saw", "drill", "knife", "ladder", "nail", "axe", "rope", "shovel", "hammer", "bucket", "brush", "needle")
"""The words that it fires on."""
