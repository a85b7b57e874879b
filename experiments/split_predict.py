"""Split inference by a third party: ``python -m experiments.split_predict --workdir=runs/NAME``.

A third party receives the clients' part of the final model of a run of ``experiments.split``, sends
the activations of test images to the server, and receives the model's outputs (paper 003, sec. 3).
It writes ``predictions.csv`` and ``inference_messages.csv`` to the run's folder.
"""

from fedjax_norm.cli.commands.split_predict import launch

if __name__ == "__main__":
  launch()
