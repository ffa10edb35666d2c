"""Returns every row of the table with its number of characters."""


def run(mini_batch):
    return mini_batch.assign(columns=mini_batch.shape[1])
