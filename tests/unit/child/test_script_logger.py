"""EntryScript().logger, whatever the script does with the logging module."""

import copy
import logging
import logging.config
import pickle

import pytest

from prefect_parallel_run import EntryScript

OURS = "prefect_parallel_run.entry_script"
CONFIGURATIONS = {
    "another root": {"version": 1, "root": {"level": "INFO"}},
    "our package": {"version": 1, "loggers": {"prefect_parallel_run": {"level": "ERROR"}}},
    "our name": {"version": 1, "loggers": {OURS: {"level": "ERROR", "handlers": []}}},
    "a child of ours": {"version": 1, "loggers": {f"{OURS}.part": {"level": "ERROR"}}},
}


def all_loggers():
    """The root logger, and all that have been made so far."""
    return [logging.root, *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]


@pytest.fixture
def logger(tmp_path):
    """The logger as the child sets it up; logging is as it was afterwards."""
    logger = EntryScript().logger
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    names = ("handlers", "level", "disabled", "propagate")
    before = [(one, {name: getattr(one, name) for name in names}) for one in all_loggers()]
    kept = logging._handlers.copy(), logging._handlerList[:]
    logger.addHandler(handler)
    logger.setLevel("INFO")
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    handler.close()
    logger.setLevel("NOTSET")
    logger.propagate = True
    known = {one for one, _ in before}
    for one in all_loggers():
        if one not in known:  # made by a configuration, whose level would apply to other tests
            one.setLevel("NOTSET")
    for one, values in before:
        for name, value in values.items():
            setattr(one, name, value)
    logging._handlers.clear()
    logging._handlers.update(kept[0])
    logging._handlerList[:] = kept[1]
    logging.root.manager._clear_cache()


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_no_configuration_of_logging_silences_it(logger, tmp_path, configuration):
    """dictConfig disables, or empties, every logger in the table of the root logger."""
    part = logger.getChild("part")
    logger.info("before")
    logging.config.dictConfig(CONFIGURATIONS[configuration])
    logger.info("after")
    part.info("from a part")
    assert (tmp_path / "log").read_text().split("\n") == ["before", "after", "from a part", ""]


def test_a_configuration_file_does_not_either(logger, tmp_path):
    """fileConfig does the same as dictConfig."""
    file = tmp_path / "logging.ini"
    file.write_text("[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nhandlers=\nlevel=INFO\n")
    logging.config.fileConfig(file)
    logger.info("after")
    assert (tmp_path / "log").read_text() == "after\n"


def test_levels_count_at_once(logger, tmp_path):
    """Also those of its parents, and logging.disable()."""
    part = logger.getChild("part")
    assert not part.isEnabledFor(logging.DEBUG)
    logger.setLevel("DEBUG")
    assert part.isEnabledFor(logging.DEBUG)
    logging.disable(logging.INFO)
    try:
        assert not part.isEnabledFor(logging.INFO)
        assert part.isEnabledFor(logging.WARNING)
    finally:
        logging.disable(logging.NOTSET)


def test_outside_a_child_records_reach_the_root_logger(caplog):
    """Who tests a script sees what it logs."""
    with caplog.at_level("DEBUG"):
        EntryScript().logger.debug("seen")
    assert caplog.messages == ["seen"]
    EntryScript().logger.debug("not seen")
    assert caplog.messages == ["seen"]


def test_objects_that_hold_it_can_be_copied_and_sent():
    """As with every logger."""
    logger = EntryScript().logger
    assert copy.deepcopy({"log": logger})["log"] is logger
    assert pickle.loads(pickle.dumps(logger)).name == logger.name
