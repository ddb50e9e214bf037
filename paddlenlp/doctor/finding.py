"""What a check found, and how checks are carried out so that none ends the others."""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Union

OK, WARN, FAIL = "ok", "warn", "fail"


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        check: what was looked at, in a word or two.
        state: OK; WARN: training works, but slower or with less safety; FAIL: it won't work.
        found: what there is.
        advice: what to do; "" if all is well.
        place: "rank 3 on host-b" where it is another process's finding; "" for this one's.
    """

    check: str
    state: str
    found: str
    advice: str = ""
    place: str = ""

    def line(self) -> str:
        """For the screen; what to do stands on a line of its own."""
        text = f"{self.state:<4}  {self.check:<16} {self.found}{f' [{self.place}]' * bool(self.place)}"
        return f"{text}\n{'':<23}-> {self.advice}" if self.advice else text


Check = Callable[..., Union[Finding, List[Finding]]]


def carry_out(check: Check, *arguments: Any) -> List[Finding]:
    """The findings of a check; if it can't be carried out, that it can't."""
    try:
        found = check(*arguments)
    except Exception as error:
        name = check.__name__.replace("_", " ")
        advice = "See what the message says; if it says nothing of use, please report it."
        return [Finding(name, FAIL, f"could not be checked: {type(error).__name__}: {error}", advice)]
    return [found] if isinstance(found, Finding) else found
