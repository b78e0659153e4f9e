"""Target architectures: what SPD runs decompose."""
