"""Shows runs from their journals, without a back end."""
