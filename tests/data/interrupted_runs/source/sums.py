"""Returns each row with the sum of its numbers; mini-batches from 2 on wait until the file GATE exists."""

import os
import time

GATE = os.path.join(os.path.dirname(os.environ["AZUREML_BI_OUTPUT_PATH"]), "gate")


def run(mini_batch, context):
    time.sleep(0.4)  # so that a lease holds one or two
    while context.minibatch_index >= 2 and not os.path.exists(GATE):
        time.sleep(0.005)
    return mini_batch.assign(total=mini_batch["a"] + mini_batch["b"])
