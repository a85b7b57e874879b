"""Makes certificates to try out experiments.split_server and experiments.split_client.

  python -m experiments.certificates --clients=alice0,alice1

Give every party authority.pem, and its certificate (NAME.pem) and private key (NAME.key), which
nobody else may get. Needs: pip install -e ".[wire]"
"""

from fedjax_norm.cli import app
from fedjax_norm.cli.wire.launch import main_of
from fedjax_norm.cli.wire.options import CertificatesFlags


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run_plain(main_of("certificates"), CertificatesFlags, __doc__)
