"""Pure functions over a harvest: regions, overview, search, similarity."""
