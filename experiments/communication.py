"""What an epoch of SSGD sends, for every norm and model: ``python -m experiments.communication``.

A worker sends its gradient once a step, and under distributed BN two more messages for every norm
layer. Two ways of counting those stand side by side. Ours: the moments forward (count, mean and m2)
and the two sums that the exact gradient needs backward. Paper 000's (sec. 4.2): the mean and the
variance forward, in one exchange after the other, and nothing backward. Both make 2 n + 1 round
trips a step with n norm layers; bytes are those of the messages.
"""

from fedjax_norm.cli.commands.communication import launch

if __name__ == "__main__":
  launch()
