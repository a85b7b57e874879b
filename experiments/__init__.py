"""The binaries: absl flags in, a run folder out."""
