"""Uses as many CPU seconds as the file's name says."""

import time


def run(mini_batch):
    end = time.thread_time() + sum(float(path.rpartition("_")[2]) for path in mini_batch)
    while time.thread_time() < end:
        pass
    return mini_batch
