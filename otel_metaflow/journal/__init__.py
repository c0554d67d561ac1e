"""The journal: files on disk, the only interface between the processes of this project.

`docs/journal.md` describes the format.
"""
