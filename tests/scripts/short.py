"""Returns one row fewer than there are items."""


def run(mini_batch):
    return list(mini_batch)[1:]
