"""A run on disk: its directory, its ledger and its records; and which run directory a step works in."""
