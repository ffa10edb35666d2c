"""Executes a run from its start, or from where it ended, to its result; resumes, replays and verifies runs."""
