"""What can be harvested."""
