"""Pure decisions: again or give up, go on or abort, how much travels together."""
