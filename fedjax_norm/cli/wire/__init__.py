"""The binaries of split learning between processes."""
