"""The command line: flags, the start and end of every binary, and the reports of runs."""
