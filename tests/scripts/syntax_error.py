"""Does not parse."""

def run(mini_batch:
