"""Returns a JSON line per item: the partition's values, and what is in the item."""

import json


def run(mini_batch, context):
    values = context.partition_key_value
    if isinstance(mini_batch, list):
        return [json.dumps({"values": values, "path": path}) for path in mini_batch]
    columns = list(mini_batch.columns)
    return [json.dumps({"values": values, "columns": columns, "x": int(x)}) for x in mini_batch["x"]]
