"""What this machine has, and how it runs a federation: ``python -m experiments.machine``.

Prints JAX's devices, the versions of the packages, the mapping of clients to devices that a run of
``experiments.run`` with the same flags would have, and the measured rate of dense matrix products
(on the CPU, that of float32 is of all cores, and that of bfloat16 of one device). Nothing is
trained and no folder is written: ``--method``, ``--model``, ``--clients`` and other flags only
describe the run.
"""

from fedjax_norm.cli import app
from fedjax_norm.cli.commands import machine
from fedjax_norm.cli.methods import ANY_METHOD

if __name__ == "__main__":
  app.run(machine.run, ANY_METHOD, "run")
