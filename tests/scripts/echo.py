"""Returns every item as it came."""


def run(mini_batch):
    return list(mini_batch) if isinstance(mini_batch, list) else mini_batch
