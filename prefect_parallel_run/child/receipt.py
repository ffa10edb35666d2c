"""The receipt of an attempt at a mini-batch: from the child through slot and dispatcher into the ledger."""

from enum import Enum
from functools import partial
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Tuple


class Outcome(str, Enum):
    """How an attempt ended. The ledger stores the values."""

    SUCCEEDED = "succeeded"
    RAISED = "raised"  #: run() raised an exception, or an item could not be read
    WRONG_TYPE = "wrong_type"  #: run() returned a value without rows
    INPUT_CHANGED = "input_changed"  #: a file has changed since planning
    UNWRITABLE = "unwritable"  #: the rows could not be written
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    DIED = "died"  #: the process exited, or was killed from outside
    LOST = "lost"  #: with its node

    __str__ = str.__str__  # the value, in every version of Python


class Receipt(NamedTuple):
    """The record of one attempt at a mini-batch."""

    mini_batch: int
    attempt: int  #: from 1
    outcome: Outcome
    items: int  #: items in the mini-batch
    succeeded: int
    failed: int
    rows: int  #: rows returned; may exceed items
    part: str  #: name of the part file; "" when no rows were kept
    offset: int  #: start of the mini-batch's bytes in the part
    header: int  #: bytes of the header line, or of the schema of Parquet rows, before the rows
    length: int  #: bytes, header included
    crc: int  #: CRC-32 of these bytes
    started: float  #: Unix time, s
    seconds: float
    node: str = ""
    pid: int = 0
    error_type: str = ""
    error: str = ""  #: the exception's message
    traceback: str = ""
    fingerprint: str = ""  #: equal for failures of one cause
    final: bool = False  #: the script rejected further attempts
    retry_after: Optional[float] = None  #: s before the next attempt, as RetryLater asked; None: as configured

    @classmethod
    def of_failure(cls, mini_batch: int, attempt: int, outcome: Outcome, *, items: int = -1, **fields: Any) -> "Receipt":
        """Return the receipt of an attempt without rows; *fields* are those from ``started`` on.

        If *items* is unknown (-1), the number is in the plan.
        """
        no_rows = {"rows": 0, "part": "", "offset": 0, "header": 0, "length": 0, "crc": 0}
        return cls(mini_batch, attempt, outcome, items, succeeded=0, failed=items, **{**no_rows, **fields})

    @classmethod
    def of_answer(cls, answer: Sequence[Any], node: str, pid: int) -> "Receipt":
        """Return the receipt that the process *pid* of *node* has sent.

        Raises:
            ValueError, LookupError, TypeError: The answer is not a receipt.
        """
        is_success = len(answer) == _SENT
        fields = [*answer, node, pid, *_NO_ERROR] if is_success else [*answer[:_SENT], node, pid, *answer[_SENT + 2 :]]
        if len(fields) != _COUNT:
            raise ValueError(f"expected a receipt, got {len(answer)} values")
        fields[2] = _OUTCOMES[fields[2]]
        receipt: Receipt = _new(cls, fields)
        return receipt

    @staticmethod
    def of_tuples(values: Iterable[Tuple[Any, ...]]) -> "List[Receipt]":
        """Return receipts that were converted to tuples: pickle takes a third of the time for those."""
        return list(map(partial(_new, Receipt), values))


#: The fields ``rows`` to ``crc`` of a receipt, in this order.
Rows = Tuple[int, str, int, int, int, int]
NO_ROWS: Rows = (0, "", 0, 0, 0, 0)
_SUCCEEDED = Outcome.SUCCEEDED
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_SENT = Receipt._fields.index("node")  #: number of fields in the answer of an attempt that succeeded
_COUNT = len(Receipt._fields)
_NO_ERROR = tuple(Receipt._field_defaults[name] for name in Receipt._fields[_SENT + 2 :])
_new: Any = tuple.__new__  # without the checks of Receipt() and _make(), which would double the time


def success(mini_batch: int, attempt: int, items: int, rows: Rows, started: float, seconds: float) -> Tuple[Any, ...]:
    """Return the receipt of a success as a child sends it: without the fields that the slot knows, or that have defaults."""
    succeeded = min(rows[0], items)
    return (mini_batch, attempt, _SUCCEEDED, items, succeeded, items - succeeded, *rows, started, seconds)
