"""A run on disk: its folder, its ledger, and what has been noted of it."""
