"""What is known of a run, for the shipper and for the viewer: put together from its journals, standard library only."""
