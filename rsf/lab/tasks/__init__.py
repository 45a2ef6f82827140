"""The experiments of the protocol, a file each: what it loads, what one run does, what it reports."""
