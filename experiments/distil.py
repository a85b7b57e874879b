"""Distils a cut model into a student model: ``python -m experiments.distil --teacher=runs/NAME``.

The teacher is the model of a finished run of ``experiments.split``: public images go through the
client's part, their activations through the server's part, and a student learns the outputs (paper
003, sec. 6). The public images are the training images of ``--data``; student and teacher are
tested on the test images of the teacher's run.
"""

from fedjax_norm.cli.commands.distil import launch

if __name__ == "__main__":
  launch()
