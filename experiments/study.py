"""Which norm, algorithm and communication: ``python -m experiments.study --data=folder:DIR``.

Trains each norm of --norms with each algorithm of --algorithms and each number of --local_steps,
and writes a ranked table, a recommendation in words and report.html into --workdir. Learning rates
are searched for each contender on held-out training examples, and all contenders take the same
number of local steps, so that a norm loses by itself and not by its learning rate.

The same command with the same --workdir goes on after a stop and reuses what is done, also with
more norms, algorithms, local steps, partitions or seeds. Any number of machines that reach the
folder can run the command at the same time; they divide the contenders. On a machine with several
GPUs, start one process per GPU: CUDA_VISIBLE_DEVICES=0 python -m experiments.study --workdir=DIR
and so on.
"""

from fedjax_norm.cli.commands.study import launch

if __name__ == "__main__":
  launch()
