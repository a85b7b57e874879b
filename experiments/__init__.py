"""The binaries of this checkout: flags in, a run folder out."""
