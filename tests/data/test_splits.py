"""Split shares and boundaries, with the reference's rounding."""

from __future__ import annotations

import pytest

from paddlenlp.data import check_data_split
from paddlenlp.data.splits import parse_split, plain_sum, print_split, print_target_sizes, split_bounds
from paddlenlp.utils.errors import UsageError


@pytest.mark.parametrize(
    "split, size, bounds",
    [
        ("949,50,1", 1000, [0, 949, 999, 1000]),
        ("949/50/1", 1000, [0, 949, 999, 1000]),
        ("949,50,1", 37, [0, 35, 37, 37]),
        ("1", 7, [0, 7, 7, 7]),
        ("1,1", 5, [0, 3, 5, 5]),  # 2.5 rounds to 2 twice: one short, so boundaries move up by one
        ("1,1,1", 5, [0, 1, 3, 5]),  # 1.67 rounds to 2 three times: one too many, so they move down
        ("0,1,1", 3, [0, 0, 1, 3]),  # the reference says -1 here and reads the last sequence in two splits
        ("0.5,0.25,0.25", 4, [0, 2, 3, 4]),
    ],
)
def test_bounds(split, size, bounds):
    assert split_bounds(split, size) == bounds


@pytest.mark.parametrize("split", ["a,b", "1,2,3,4", "-1,2", "nan", "0,0,0", "", "1;2", "inf,1"])
def test_malformed_splits_are_refused(split):
    with pytest.raises(UsageError, match="949,50,1"):
        parse_split(split)


def test_a_used_split_needs_a_share():
    check_data_split("1,0,0", True, False, False)
    for flags in [(True, False, False), (False, True, False), (False, False, True)]:
        shares = ",".join("0" if used else "1" for used in flags)
        with pytest.raises(UsageError, match="If do_train/do_eval/do_predict is True, the corresponding dataset split"):
            check_data_split(shares, *flags)


def test_plain_sum_rounds_after_each_addition():
    assert plain_sum([0.1] * 10) == 0.9999999999999999


def test_printed_reports(capsys, monkeypatch):
    print_target_sizes([100, 0, 7])
    print_split([0, 3, 5, 5])
    assert capsys.readouterr().out == (
        " > datasets target sizes (minimum size):\n    train:      100\n    test:       7\n"
        " > dataset split:\n    train:\n     document indices in [0, 3) total of 3 documents\n"
        "    validation:\n     document indices in [3, 5) total of 2 documents\n"
        "    test:\n     document indices in [5, 5) total of 0 documents\n"
    )
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    print_split([0, 3, 5, 5])
    assert capsys.readouterr().out == ""
