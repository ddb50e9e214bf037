"""How a job of several ranks ends when one of them fails: all end, soon, and each says in one line which rank it was.

    sys.exit(run_as_rank(main))

The rank that fails prints what happened, tells the others over `transport` and ends at once; the others print one line
and end a few seconds later, so that the launcher finds the culprit first and shows its log. A rank that was killed says
nothing; the others notice that its connections have ended. Wrong input that all ranks find is told in full by one of
them. A rank ends with its launcher.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Callable, Optional

from paddlenlp.utils.errors import UsageError

from . import signals

YIELD = 5.0
"""Seconds for which a rank that ends because of another one gives way to it; the launcher looks every other second."""

GRACE = 8.0
"""Seconds after which a rank ends whatever it is doing, when another has failed."""

PARTING = 10.0
"""Seconds that a process may take to end after its program has ended on a signal."""

PATIENCE = 2.0
"""Seconds for which a rank that finds its input wrong waits to hear that the first rank has found the same."""

FAILED, WRONG_INPUT, STUCK, ON_SIGNAL = 1, 2, 7, 128
"""Exit codes; to the last is added the number of the signal: 143 after SIGTERM, 130 after Ctrl-C, 138 after SIGUSR1."""

FAREWELL = 2.0
"""Seconds for which a rank of a job that hangs gives the others time to say so too."""

_SET_PARENT_DEATH_SIGNAL = 1
_STDERR = 2
_REASON = 500


class RankFailed(UsageError):
    """Another rank has ended, and this one can't go on.

    Args:
        rank: which.
        how: "has ended", "has failed (ValueError: ...)".
        waiting: what this rank was doing.
    """

    def __init__(self, rank: int, how: str, waiting: str = "") -> None:
        super().__init__(" ".join(filter(None, (f"rank {rank}", how, waiting))))
        self.rank, self.how = rank, how


def reason_of(error: BaseException) -> str:
    """What went wrong, in one short line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return (text if isinstance(error, UsageError) and text else f"{type(error).__name__}: {text}")[:_REASON]


def run_as_rank(main: Callable[[], None]) -> int:
    """Run a program that is one of the ranks of a job, or the only one; returns the exit code.

    What the user can do something about (UsageError) is printed as a message, everything else with its traceback.
    """
    if _ranks() > 1:
        end_with_parent()
        _ending.armed = True
        with signals.held():
            _meet_others()
    try:
        main()
        return 0
    except RankFailed as error:
        return _give_way(error)
    except UsageError as error:
        other = _ending.same_elsewhere(error) if _ending.armed else None
        return _fail(error, WRONG_INPUT, f"error: {error}") if other is None else _leave_it_to(other)
    except KeyboardInterrupt as error:
        return _stop(error)
    except Exception as error:
        number = signals.interrupted_by()
        if number:
            return _stop(signals.Stopped(number, "interrupted"))
        return _fail(error, FAILED, f"error: {reason_of(error)}", traceback.format_exc())


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends. On Linux; elsewhere the launcher must see to it."""
    parent = os.getppid()
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(FAILED)


def note_failed(failure: RankFailed) -> None:
    """Another rank has failed: in a program under `run_as_rank`, see to it that this one ends too."""
    if _ending.armed:
        _ending.hear(failure)


def end_stuck(text: str) -> None:
    """End this process, whatever its threads are doing: the job hangs. First their stacks are written, then `text`."""

    def tell() -> None:
        faulthandler.dump_traceback(_STDERR, all_threads=True)
        _ending.say(f"error: {text}")
        _stop_on_request(False)

    _stop_on_request(False)
    threading.Thread(target=tell, daemon=True).start()  # writing may be what hangs
    time.sleep(FAREWELL)
    os._exit(STUCK)


class _Ending:
    """Ends this rank after another's failure, also when its main thread does not come to notice it."""

    def __init__(self) -> None:
        self.armed = False
        self._turn = threading.Lock()
        self._said = threading.Event()
        self._heard = threading.Event()
        self._failure: Optional[RankFailed] = None

    def hear(self, failure: RankFailed) -> None:
        """Another rank has failed."""
        self._failure = failure
        self._heard.set()
        threading.Thread(target=self.run, args=(failure,), daemon=True).start()

    def same_elsewhere(self, error: UsageError) -> Optional[RankFailed]:
        """The failure of another rank that has told in full what is wrong here too; the first rank waits for none."""
        _stop_on_request(False)  # not before it has been said
        self._heard.wait(PATIENCE if _rank() else 0.0)
        failure = self._failure
        return failure if failure is not None and failure.how == f"has failed ({reason_of(error)})" else None

    def say(self, text: str, trace: str = "") -> None:
        """Why this rank ends, unless it has said so before: what comes after that follows from it."""
        if self._turn.acquire(blocking=False):
            print(trace, end="", file=sys.stderr)
            _print(text)
            self._said.set()
        _stop_on_request(True)

    def run(self, failure: RankFailed) -> None:
        if not self._said.is_set():
            _stop_on_request(False)
        if not self._said.wait(0.2):  # the main thread can say more, if it is waiting
            self.say(_line(failure))
        _stop_on_request(True)
        time.sleep(GRACE)
        os._exit(FAILED)


_ending = _Ending()


def _stop_on_request(yes: bool) -> None:
    """What SIGTERM does: end this process, or nothing. Works from any thread, which Python's `signal` does not.

    The launcher, seeing one rank fail, sends it to the others three times within a second; Paddle's own handler would
    write a page about it.
    """
    if os.name == "posix":
        ctypes.CDLL(None).signal(signal.SIGTERM, int(signal.SIG_DFL if yes else signal.SIG_IGN))


def _give_way(failure: RankFailed) -> int:
    """This rank ends because of another."""
    _ending.say(_line(failure))
    _tell(failure)
    time.sleep(YIELD)
    return FAILED


def _leave_it_to(failure: RankFailed) -> int:
    """This rank ends because of what another one has told in full."""
    _ending.say(f"error: as rank {failure.rank} says")
    _tell(failure)
    time.sleep(YIELD)
    return WRONG_INPUT


def _fail(error: BaseException, code: int, text: str, trace: str = "") -> int:
    """This rank ends because of itself."""
    _ending.say(text, trace)
    _tell(error)
    return code


def _stop(error: KeyboardInterrupt) -> int:
    """This rank ends on request: alone, or at a point that all ranks have agreed on, where none has to be told."""
    number = getattr(error, "number", signal.SIGINT)
    if isinstance(error, signals.Agreed):
        _ending.say(str(error))
        if signals.has_left_behind():
            _end_now(ON_SIGNAL + number)
        threading.Thread(target=_end_soon, args=(ON_SIGNAL + number,), daemon=True).start()
        return ON_SIGNAL + number
    return _fail(error, ON_SIGNAL + number, "interrupted")


def _end_soon(code: int) -> None:
    """End a while after the program has, whatever keeps it: Paddle's data loader waits for what it reads ahead."""
    threading.main_thread().join()
    time.sleep(PARTING)
    _end_now(code)


def _end_now(code: int) -> None:
    """End without waiting for the threads that something keeps from ending."""
    _tell(None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _meet_others() -> None:
    """Connect with all ranks before anything else, so that each hears of another's failure however early it is."""
    from . import transport

    try:
        transport.transport().connect(range(_ranks()))
    except UsageError as error:  # if it is needed it will be refused again, and otherwise this is no reason to end
        _print(f"warning: ranks will not hear of each other's failures: {error}")


def _tell(error: Optional[BaseException]) -> None:
    """Let the other ranks know how this one ends, None for well, if there is a connection to them."""
    transport = sys.modules.get("paddlenlp.parallel.transport")
    if transport is not None:
        transport.leave(error)


def _line(failure: RankFailed) -> str:
    return f"error: {failure}; this rank ends too"


def _print(text: str) -> None:
    place = f"[rank {_rank()} of {_ranks()} on {socket.gethostname()}] " if _ranks() > 1 else ""
    print(f"{place}{text}", file=sys.stderr, flush=True)


def _rank() -> int:
    return int(os.environ.get("PADDLE_TRAINER_ID") or 0)


def _ranks() -> int:
    return int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)
