"""Makes certificates to try out experiments.split_server and experiments.split_client.

  python -m experiments.certificates --clients=alice0,alice1

Every party needs the authority's certificate and its two files; nobody else may get a party's
private key. Needs: pip install -e ".[wire]"
"""

from fedjax_norm.cli.wire import launch

if __name__ == "__main__":
  launch.certificates()
