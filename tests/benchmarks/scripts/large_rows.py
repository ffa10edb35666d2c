TEXT = "x" * 99_999


def run(mini_batch):
    return [TEXT] * len(mini_batch)
