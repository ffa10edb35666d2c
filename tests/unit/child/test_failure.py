"""An exception as plain text."""

from prefect_parallel_run.child.azureml_errors import AzureMLException
from prefect_parallel_run.child.failure import describe


class OfAzures(AzureMLException):
    def __str__(self):
        return f"OfAzures:\n\tMessage: {self.message}\n\tInnerException None"


def test_what_azures_own_exceptions_say_comes_first():
    """They begin with a line that has only their name; where one line is shown, it would be that one."""
    assert describe(OfAzures("the service is busy")).text == "Message: the service is busy\n\tInnerException None"
    assert describe(ValueError("ValueError: twice")).text == "ValueError: twice"
