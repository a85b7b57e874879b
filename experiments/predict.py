"""Predicts with a finished run: ``python -m experiments.predict --workdir=RUN --images=FOLDER``.

It prints a CSV table with a row for each image: the predicted class, its probability, and the
probability of every class; of a regression the predicted numbers, of a segmentation the share of
the pixels of each class. For the images of a data source (--data) the table also has what is true,
and a last line on stderr says how many predictions are right. The folder may be read-only.
"""

from fedjax_norm.cli.commands.predict import launch

if __name__ == "__main__":
  launch()
