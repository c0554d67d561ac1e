"""The journal: files on disk, the only contract between the processes of this project.

`docs/journal.md` describes the format for people who want to read one by other means.
"""
