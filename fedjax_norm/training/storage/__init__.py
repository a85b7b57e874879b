"""The files of a run: configuration, metrics, checkpoints. Kills and full disks damage none."""
