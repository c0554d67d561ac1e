"""Shows runs from their journals, without any back end."""
