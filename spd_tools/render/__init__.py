"""Stored data as text for a terminal: nothing here computes, reads files or trusts what it is shown."""
