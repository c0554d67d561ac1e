"""Puts a run's story together from its journals, for the shipper and for the viewer: standard library only."""
