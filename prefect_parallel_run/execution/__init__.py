"""Driving a run from its beginning, or from where it ended, to its result; and looking at it again."""
