"""The process of an engine: calls the functions it is told to, until nobody asks any more.

    python serve.py DESCRIPTOR-OF-QUESTIONS DESCRIPTOR-OF-ANSWERS

A question is ``["module:function", [argument, …]]`` in one line of JSON, an answer ``{"value": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback


def main(questions: int, answers: int) -> None:
    for descriptor in (questions, answers):
        os.set_inheritable(descriptor, False)
    with os.fdopen(questions) as asked, os.fdopen(answers, "w") as answered:
        for line in asked:
            function, arguments = json.loads(line)
            module, _, name = function.partition(":")
            try:
                answer = {"value": getattr(importlib.import_module(module), name)(*arguments)}
            except Exception:  # noqa: BLE001  told to who asked, who fails with it
                answer = {"error": traceback.format_exc()}
            answered.write(json.dumps(answer) + "\n")
            answered.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
