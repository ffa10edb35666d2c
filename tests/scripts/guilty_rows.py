"""Fails for every mini-batch that has one of three numbers in it."""


def run(mini_batch):
    bad = mini_batch["number"].isin([7, 444, 899])
    if bad.any():
        raise ValueError(f"{int(bad.sum())} guilty rows")
    return mini_batch[["number"]]
