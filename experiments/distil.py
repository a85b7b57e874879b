"""Distils a split teacher into a public student: ``python -m experiments.distil --teacher=RUN``.

After training by ``experiments.split``, public images go through the client's part of the model and
their activations through the server's, whose outputs teach a student of its own (paper 003, sec.
6). The public images are the training ones of ``--data``; the student is tested, beside its
teacher, on the test images of the teacher's run.
"""

from fedjax_norm.cli.commands.distil import launch

if __name__ == "__main__":
  launch()
