"""Changes an input file that belongs to a later mini-batch."""

import os


def run(mini_batch):
    folder = os.path.dirname(mini_batch[0])
    if os.path.basename(mini_batch[0]) == "f000.txt":
        with open(os.path.join(folder, "f095.txt"), "a") as file:
            file.write("more\n")
    return [os.path.basename(path) for path in mini_batch]
