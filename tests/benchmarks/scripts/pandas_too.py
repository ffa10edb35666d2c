"""Does nothing, with an import that costs something."""

import pandas as pd  # noqa: F401


def run(mini_batch):
    return mini_batch
