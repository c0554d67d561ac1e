"""docs/remote.md has what tests/bed measured, and not what somebody wished."""

from measured import BEGIN, DOCUMENT, END, table


def test_the_table_of_remote_steps_is_the_one_that_the_bed_wrote() -> None:
    assert f"{BEGIN}{table()}{END}" in DOCUMENT.read_text()
