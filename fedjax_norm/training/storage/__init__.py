"""A run's folder on disk: configuration, metrics, checkpoints. Survives kills and full disks."""
