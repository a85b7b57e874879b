"""Inference by somebody who took no part in training: ``python -m experiments.split_predict``.

A third party that holds no training data gets the clients' part of the model of a finished run of
``experiments.split`` (``--workdir``), sends the activations of its images to the server, and has
the outputs back (paper 003, sec. 3). ``predictions.csv`` and ``inference_messages.csv`` go to the
run's folder.
"""

from fedjax_norm.cli.commands.split_predict import launch

if __name__ == "__main__":
  launch()
