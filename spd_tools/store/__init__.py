"""The harvest on disk: schema, reader and what it returns."""
