"""The state of a run, assembled from its journals, for the shipper and the viewer. Standard library only."""
