"""Its init() fails."""


def init():
    raise RuntimeError("no model at /models/none")


def run(mini_batch):
    return mini_batch
