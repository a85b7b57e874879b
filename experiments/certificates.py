"""Makes certificates to try out experiments.split_server and experiments.split_client.

  python -m experiments.certificates --clients=alice0,alice1

Give every party authority.pem, and its certificate (NAME.pem) and private key (NAME.key), which
nobody else may get. Needs: pip install -e ".[wire]"
"""

from fedjax_norm.cli.wire import launch

if __name__ == "__main__":
  launch.certificates()
