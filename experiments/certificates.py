"""A test authority: ``python -m experiments.certificates --clients=alice0,alice1``.

For trying out ``experiments.split_server`` and ``split_client``. Everyone gets the authority's
certificate and their own two files; a private key is its owner's alone.
"""

from fedjax_norm.cli.wire.certificates import launch

if __name__ == "__main__":
  launch()
