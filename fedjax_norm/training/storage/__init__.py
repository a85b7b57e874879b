"""A run's folder: configuration, metrics, checkpoints; safe against kills and full disks."""
