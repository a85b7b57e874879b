"""The command line: flags from the options, what every binary does around its work, reports."""
