"""The options of a training run: length, learning rate, FixBN's freeze, devices, folder."""
