"""One process that does for ever what backfill does once: it follows Metaflow's metadata and exports what is over."""
