"""Which run directory a step works in: what makes two runs the same, and what has changed since."""
