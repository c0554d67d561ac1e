"""Runs in `flow.py run`: standard library and Metaflow only."""
