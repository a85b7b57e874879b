"""Split inference by a third party: ``python -m experiments.split_predict --workdir=runs/NAME``.

A party without training data receives the clients' part of the model of a finished run of
``experiments.split``, sends the activations of its images to the server, and receives the outputs
(paper 003, sec. 3). The run's folder gets ``predictions.csv`` and ``inference_messages.csv``.
"""

from fedjax_norm.cli.commands.split_predict import launch

if __name__ == "__main__":
  launch()
