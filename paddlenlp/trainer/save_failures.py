"""What a run does when it cannot write: it stops, or goes on without the file (`save_failure_policy`)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from paddlenlp.parallel.failure import RankFailed
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike
from paddlenlp.utils.log import logger


class SaveFailures:
    """Meets failures to write as the arguments say.

    Args:
        policy: "stop" or "continue".
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy

    def meet(self, error: UsageError, comfort: str) -> None:
        """Raise `error`, or say it in a warning, with `comfort` behind, and go on.

        Raises:
            UsageError: `error`, if the run is to stop, or if it is a rank of the job that has failed.
        """
        if self.policy == "stop" or isinstance(error, RankFailed):
            raise error
        logger.warning(f"{error} save_failure_policy is {self.policy}: {comfort}")

    @contextmanager
    def guard(self, path: PathLike) -> Iterator[None]:
        """Context manager: within it one process writes file `path`, which the run can do without.

        Raises:
            UsageError: it could not be written, and the run is to stop; with the path, the cause and the bytes free.
        """
        try:
            yield
        except OSError as error:
            self.meet(write_failed(path, error), "the run goes on without this file.")
