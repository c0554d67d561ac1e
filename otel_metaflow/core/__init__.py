"""The foundation: names, ids, settings and the guard. Standard library only."""
