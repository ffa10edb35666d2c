"""A step from functions; every row says where the function ran."""

import sys

from prefect_parallel_run import parallel_run

CALLS = []


@parallel_run(error_threshold=0, output_action="append_row", process_count_per_node=1)
def tells(paths, context):
    facts = (*CALLS, context.minibatch_index, __name__, "prefect" in sys.modules)
    return [" ".join(map(str, facts)) for _ in paths]


@tells.init
def begin():
    CALLS.append("begin")


@tells.shutdown
def end():
    print(*CALLS, "end")


later = tells.with_options(name="later", retries=1)


@parallel_run(error_threshold=0, output_action="append_row")
def calls_a_step(paths):
    return tells(inputs=paths)


def plain(paths):
    return paths


if __name__ == "__main__":
    raise AssertionError("a child imports the file as a module")
