"""The SQLite database: jobs with their events, and published artefacts."""
