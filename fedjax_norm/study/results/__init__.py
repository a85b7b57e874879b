"""The results of a study or of finished runs: reading, naming, tables and files."""
