"""Why nothing arrives: the doctor, and what it asks."""
