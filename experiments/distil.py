"""Distils a cut model into a student model: ``python -m experiments.distil --teacher=runs/NAME``.

The teacher is the model of a finished run of ``experiments.split``. Public images, the training
images of ``--data``, go through the client's part of the teacher, and their activations through the
server's part; the student learns to predict these outputs (paper 003, sec. 6). Student and teacher
are tested on the test images of the teacher's run.
"""

from fedjax_norm.cli.commands.distil import launch

if __name__ == "__main__":
  launch()
