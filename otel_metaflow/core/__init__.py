"""Below everything else: names, ids, settings and the guard. Standard library only."""
