"""From inputs to a plan: every item in exactly one mini-batch, frozen before it runs."""
