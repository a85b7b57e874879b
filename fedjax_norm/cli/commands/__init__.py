"""The work of each binary that trains no method by itself."""
