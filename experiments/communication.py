"""Bytes of an epoch of synchronous SGD: ``python -m experiments.communication``.

The table has a row per model and norm. A worker sends its gradient once per step and, with
distributed BN (sync_bn), two more messages per norm layer, which the table counts in two ways. In
this implementation, the forward pass exchanges count, mean and m2 (the sum of squared differences
from the mean), and the backward pass the two sums that the exact gradient needs. In paper 000
(sec. 4.2), the forward pass exchanges the mean and then the variance, and the backward pass
nothing. With n norm layers, both take 2 n + 1 round trips per step.
"""

from fedjax_norm.cli.commands.communication import launch

if __name__ == "__main__":
  launch()
