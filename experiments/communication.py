"""Communication of an epoch of SSGD by model and norm: ``python -m experiments.communication``.

A worker sends its gradient once per step, and with distributed BN two more messages for every norm
layer. The table counts these messages in two ways. In this implementation the moments (count, mean
and m2) are exchanged forward, and backward the two sums that the exact gradient needs. In paper 000
(sec. 4.2) the mean and then the variance are exchanged forward, and nothing backward. Both take
2 n + 1 round trips per step with n norm layers.
"""

from fedjax_norm.cli.commands.communication import launch

if __name__ == "__main__":
  launch()
