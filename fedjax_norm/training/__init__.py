"""Trains a method on a task: options, program, training loop, evaluation and saved files."""
