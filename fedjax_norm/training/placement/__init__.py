"""Where clients, their states and their training data are: host, devices and processes."""
