"""The options of a run: its length, learning rate, FixBN's freeze, devices and folder."""
