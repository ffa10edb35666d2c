"""Mini-batch 3 fails on its first try, 5 on every one with words like a page has, 7 hangs on its first; the rest is fine."""

import os
import time


def run(mini_batch, context):
    if context.minibatch_index == 3 and context.try_number == 1:
        raise ValueError("only the first try")
    if context.minibatch_index == 5:
        raise RuntimeError("</script><img src=x onerror=alert(1)>")
    if context.minibatch_index == 7 and context.try_number == 1:
        time.sleep(1000)
    return [os.path.basename(path) for path in mini_batch]
