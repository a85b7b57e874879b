"""Writes data for use from the disk: ``python -m experiments.convert --data=folder:DIR --to=DIR``.

Decodes the images of any data source, such as ``folder:DIR`` or ``csv:FILE``, into the arrays that
``--data=npy:DIR`` reads. Such images are mapped into memory: a run with ``--data_on=host`` reads
from the disk what its next rounds need, so the data may be larger than the memory. Labels, names,
clients and the split into training and test images are those of the source, and runs give the same
results. Image files and TFDS data are converted in little memory.

A conversion that was interrupted goes on when the same command runs again. Until it is complete,
its files are in the folder DIR.partial.
"""

from fedjax_norm.cli.commands.convert import launch

if __name__ == "__main__":
  launch()
