"""Bob: ``python -m experiments.split_server --client_names=alice0,alice1 --image_shape=8x8x1 ...``.

The server of split learning over a real network (paper 003, sec. 4): it holds the body of the
model, sees activations, gradients and (without ``--tail``) labels, and says whose turn it is. The
same command goes on where a killed one stopped.
"""

from fedjax_norm.cli.wire.server import launch

if __name__ == "__main__":
  launch()
