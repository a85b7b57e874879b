"""Data sources: one module per kind, and the registry that loads a source by name."""
