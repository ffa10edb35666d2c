"""Plans a step: every item belongs to exactly one mini-batch, which is frozen before it runs."""
