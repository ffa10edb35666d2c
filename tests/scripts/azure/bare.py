"""Has no init(); names its output by the mini-batch, and writes beside its result."""

import os
from pathlib import Path


def run(mini_batch):
    folder = Path(os.environ["AZUREML_BI_OUTPUT_PATH"], "by_task")
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, f"{mini_batch.task_id}.txt").write_text("\n".join(os.path.basename(path) for path in mini_batch))
    return [f"{os.path.basename(path)} {mini_batch.task_id}" for path in mini_batch]
