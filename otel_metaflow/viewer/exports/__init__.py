"""Exports a run as a file for other programs."""
