"""Alice: ``python -m experiments.split_client --certificate=alice0.pem --key=alice0.key ...``.

A client of split learning over a real network (paper 003, sec. 4): it holds the first stages of the
model (and with the server's ``--tail`` the last ones) and its data, which never leave it. With
``--predict`` it classifies its test images with the trained network (sec. 3). The same command goes
on where a killed one stopped.
"""

from fedjax_norm.cli.wire.client import launch

if __name__ == "__main__":
  launch()
