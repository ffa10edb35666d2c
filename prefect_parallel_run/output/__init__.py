"""What comes out: the result file, failed items, the receipt."""
