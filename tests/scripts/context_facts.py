"""Returns what the surroundings say, as one JSON line per item."""

import json
import os
import sys

from azureml_user.parallel_run import EntryScript as AzureEntryScript

from prefect_parallel_run import EntryScript

ARGUMENTS = sys.argv


def run(mini_batch, context):
    script = EntryScript()
    script.logger.info("mini-batch %d", context.minibatch_index)
    facts = {
        "argv": ARGUMENTS,
        "name": __name__,
        "file": __file__,
        "cwd": os.getcwd(),
        "working_dir": script.working_dir,
        "output_dir": script.output_dir,
        "log_dir": script.log_dir,
        "side_inputs": script.side_inputs,
        "bi_output": os.environ["AZUREML_BI_OUTPUT_PATH"],
        "index": context.minibatch_index,
        "dataset": context.dataset,
        "try": context.try_number,
        "retry": context.retry_count,
        "partition_key_value": context.partition_key_value,
        "task_id": mini_batch.task_id,
        "same": AzureEntryScript is EntryScript,
    }
    return [json.dumps(facts)] * len(mini_batch)
