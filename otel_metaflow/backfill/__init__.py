"""Makes journals of runs that have none, from what Metaflow itself stored of them."""
