"""The commands, each with the docstring that its ``--help`` prints and a function ``launch``."""
