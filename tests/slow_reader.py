"""A reader for tests of reading ahead."""

from concurrent.futures import Future

from prefect_parallel_run.child.reading import Reader


class SlowReader(Reader):
    """A reader that prepares a mini-batch only when ``may_end`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.may_end, self.has_ended = Future(), Future(), False

    def prepare(self, work) -> None:
        self.entered.set_result(None)
        self.may_end.result(300)
        super().prepare(work)
        self.has_ended = True
