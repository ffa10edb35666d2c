"""Returns a row of 3,000 characters for every file."""


def run(mini_batch):
    return ["x" * 3_000 for _ in mini_batch]
