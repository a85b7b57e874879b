"""Prepares the official archives of public data sets, without TensorFlow, for ``--data_dir``."""
