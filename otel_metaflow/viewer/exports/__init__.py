"""A run in formats that other programs open: no vendor, no collector, one file."""
