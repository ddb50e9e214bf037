"""What must hold among the arguments, and what deserves a remark: rows of tables, all checked and reported together."""

from __future__ import annotations

import operator
import re
from typing import Any, Collection, Dict, Iterator, List, Mapping, Sequence, Tuple

from paddlenlp.data.splits import parse_split
from paddlenlp.utils.errors import UsageError

from .fields import is_required, limits_text, status_of
from .layout_rules import LAYOUT_REMARKS, LAYOUT_RULES, layout_problems
from .options import OPTION_WORDS, IntervalStrategy, check_options, option_notes
from .path_rules import PATH_RULES
from .remarks import REMARKS
from .rule import Rule, View
from .values import shown

_SIGNS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}

_RUNS = ("do_train", "do_eval", "do_predict", "autotuner_benchmark")
_DEVICE = re.compile(r"(cpu|gpu(:\d+)?)\Z")


def _split_problem(args: Any) -> str:
    """What is wrong with `split`, or ""."""
    try:
        shares = parse_split(args.split)
    except UsageError as error:
        return str(error)
    wanted = (("do_train", args.train_enabled), ("do_eval", args.eval_enabled), ("do_predict", args.predict_enabled))
    parts = zip(wanted, ("training", "validation", "test"), shares)
    empty = [f"{part} (asked for by {flag})" for (flag, on), part, share in parts if on and share == 0]
    return f'split "{args.split}" leaves nothing for {" and ".join(empty)}; give it a share above 0' if empty else ""


def _steps_message(args: Any) -> str:
    fits = not layout_problems(args)
    samples = args.samples_per_step if fits else args.per_device_train_batch_size * args.gradient_accumulation_steps
    text = "max_steps must be set, above 0: it is the length of the run (num_train_epochs is not used). "
    text += f"One step here is {samples} sample{'s' if samples > 1 else ''}"
    return text + f" = {samples * args.max_seq_length:,} tokens; max_steps = tokens to train on / that"


def _bad_intervals(args: Any) -> bool:
    return any(len(pair) != 2 or not 1 <= pair[0] <= pair[1] for pair in args.skip_data_intervals or ())


def _profiled(args: Any) -> bool:
    """Whether `profile_steps` names steps of this run."""
    steps = args.profile_steps
    return len(steps) == 2 and 1 <= steps[0] <= steps[1] <= args.effective_max_steps


def _out_of_step(args: Any) -> bool:
    """Whether evaluations and checkpoints fall on different steps, so that no checkpoint has a metric."""
    if args.effective_evaluation_strategy != args.effective_save_strategy or not args.eval_enabled:
        return True
    by_steps = args.effective_save_strategy == IntervalStrategy.STEPS
    return by_steps and args.save_steps % args.effective_eval_steps != 0


#: What an evaluation measures.
METRICS = ("eval_loss", "eval_ppl")

RULES: List[Rule] = [
    Rule(
        _RUNS,
        lambda a: not (a.train_enabled or a.do_eval or a.predict_enabled),
        "nothing to do: set do_train, do_eval or do_predict to true",
    ),
    Rule(
        ("input_dir", *_RUNS),
        lambda a: not a.input_dir and (a.train_enabled or a.do_eval or a.predict_enabled),
        "input_dir must be set: the folder with the .bin/.idx files that llm/tools/create_pretraining_data.py makes",
    ),
    Rule(
        ("max_steps", "max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps", *_RUNS),
        lambda a: a.train_enabled and a.effective_max_steps <= 0,
        _steps_message,
    ),
    Rule(("split", *_RUNS, "evaluation_strategy"), lambda a: bool(_split_problem(a)), _split_problem),
    Rule(("fp16", "bf16"), lambda a: a.fp16 and a.bf16, "fp16 and bf16 exclude each other; set one of them to false"),
    Rule(
        ("fp16_full_eval", "bf16_full_eval"),
        lambda a: a.fp16_full_eval and a.bf16_full_eval,
        "fp16_full_eval and bf16_full_eval exclude each other; set one of them to false",
    ),
    Rule(
        ("device",),
        lambda a: not _DEVICE.match(a.device or "gpu"),
        lambda a: f'device "{a.device}" is not supported; write "cpu", "gpu" or "gpu:0"',
    ),
    Rule(
        ("min_learning_rate", "learning_rate", "lr_scheduler_type"),
        lambda a: a.lr_scheduler_type in ("linear", "cosine") and a.min_learning_rate > a.learning_rate,
        lambda a: (
            f"min_learning_rate {a.min_learning_rate:g} is above learning_rate {a.learning_rate:g}; "
            f"set min_learning_rate to at most {a.learning_rate:g}"
        ),
    ),
    Rule(
        ("lr_end", "learning_rate", "lr_scheduler_type"),
        lambda a: a.lr_scheduler_type == "polynomial" and a.lr_end >= a.learning_rate,
        lambda a: f"lr_end {a.lr_end:g} is not below learning_rate {a.learning_rate:g}; set a smaller lr_end",
    ),
    Rule(
        ("decay_steps", "warmup_steps", "warmup_ratio", "max_steps"),
        lambda a: a.decay_steps is not None and a.decay_steps <= a.warmup(),
        lambda a: (
            f"decay_steps {a.decay_steps:g} does not lie after the {a.warmup():g} steps of warm-up; "
            "set a larger decay_steps or a shorter warm-up"
        ),
    ),
    Rule(
        ("skip_data_intervals",),
        _bad_intervals,
        lambda a: (
            f"skip_data_intervals {a.skip_data_intervals} must hold pairs [first, last] of steps, "
            "counted from 1, such as [[11, 20]]"
        ),
    ),
    Rule(
        ("profile_steps", "max_steps", *_RUNS),
        lambda a: a.profile_steps is not None and not _profiled(a),
        lambda a: (
            f"profile_steps {a.profile_steps} must be the first and the last step to profile, counted from 1, the last "
            f"at most max_steps ({a.effective_max_steps}), such as [20, 22]; on the command line 20,22"
        ),
    ),
    Rule(
        ("bad_step_policy", "save_strategy", "ignore_save_lr_and_optim"),
        lambda a: a.bad_step_policy == "rollback" and (not a.save_enabled or a.ignore_save_lr_and_optim),
        "bad_step_policy rollback needs whole checkpoints to go back to: set save_strategy to steps and "
        "ignore_save_lr_and_optim to false, or bad_step_policy to skip",
    ),
    Rule(
        ("dry_run_step", "dry_run_processes", "dry_run"),
        lambda a: not a.dry_run and (a.dry_run_step or a.dry_run_processes is not None),
        lambda a: f"{'dry_run_step' if a.dry_run_step else 'dry_run_processes'} belongs to dry_run: set dry_run too",
    ),
    Rule(
        ("no_recompute_layers",),
        lambda a: any(layer < 0 for layer in a.no_recompute_layers or ()),
        lambda a: f"no_recompute_layers {a.no_recompute_layers} must hold layer numbers from 0 up",
    ),
    Rule(
        ("load_best_model_at_end", "evaluation_strategy", "save_strategy", "save_steps", "eval_steps", "logging_steps"),
        lambda a: a.effective_load_best_model_at_end and _out_of_step(a),
        lambda a: (
            "load_best_model_at_end needs an evaluation at every checkpoint: evaluation_strategy "
            f"({a.effective_evaluation_strategy}) and save_strategy ({a.effective_save_strategy}) must be equal, not "
            f"no; save_steps ({a.save_steps}) must be a multiple of eval_steps ({a.effective_eval_steps})"
        ),
    ),
    Rule(
        ("metric_for_best_model", "load_best_model_at_end"),
        lambda a: a.effective_load_best_model_at_end and a.effective_metric_for_best_model not in METRICS,
        lambda a: (
            f'metric_for_best_model "{a.metric_for_best_model}" is not measured: evaluating a pretraining run gives '
            'loss and ppl; write "loss"'
        ),
    ),
    Rule(
        ("unified_checkpoint_config",),
        lambda a: {"ignore_merge_optimizer", "skip_save_model_weight"} <= a.unified_checkpoint_options,
        'unified_checkpoint_config: "ignore_merge_optimizer" does not go with "skip_save_model_weight" (which is among '
        '"enable_all_options"): the weights would be in no file whole; leave out one of them',
    ),
]


def failures(
    objects: Sequence[Any], origins: Mapping[str, str], doubtful: Collection[str] = (), check_files: bool = False
) -> List[Tuple[str, str]]:
    """(place, message) of everything wrong with the argument objects.

    Args:
        objects: instances of the argument classes; rules that read arguments none of them has are left out.
        origins: argument -> where its value was written.
        doubtful: arguments already reported; rules that read them are left out.
        check_files: also apply the rules about folders and files.
    """
    view = View(objects)
    found: List[Tuple[Tuple[str, ...], str]] = [
        ((name,), message)
        for name, item in view.fields.items()
        if name not in doubtful
        for message in _single_problems(name, item, getattr(view, name))
    ]
    out = {*doubtful, *(names[0] for names, _ in found)}
    rules = RULES + LAYOUT_RULES + (PATH_RULES if check_files else [])
    found += [problem for problem in layout_problems(view) if not out.intersection(problem[0])]
    found += [(rule.reads, rule.text(view)) for rule in _applying(rules, view, out)]
    return [(_place(names, origins), text) for names, text in found]


def notes(objects: Sequence[Any], origins: Mapping[str, str]) -> List[str]:
    """Remarks on arguments that change nothing or were read in a way that may surprise."""
    view = View(objects)
    said = []
    for name, item in view.fields.items():
        status, reason = status_of(item)
        if status == "noted" and not is_required(item) and getattr(view, name) != item.default:
            said.append(f"{name} ({_origin(name, origins)}) changes nothing: {reason}.")
    for name in OPTION_WORDS:
        written = getattr(view, name, "") or ""
        said += [f"{name} ({_origin(name, origins)}): {note}." for note in option_notes(name, written)]
    said += [rule.text(view) for rule in _applying(REMARKS + LAYOUT_REMARKS, _WithOrigins(objects, origins), ())]
    return said


def check(*objects: Any) -> None:
    """Checks argument objects made by hand.

    Raises:
        UsageError: with everything that is wrong.
    """
    found = failures(objects, {})
    if found:
        raise UsageError("wrong arguments:\n" + "\n".join(f"  {message}" for _, message in found))


class _WithOrigins(View):
    """A view that also knows which arguments the user wrote."""

    def __init__(self, objects: Sequence[Any], origins: Mapping[str, str]) -> None:
        super().__init__(objects)
        self._origins = origins

    def given(self, name: str) -> bool:
        """Whether the user wrote the argument."""
        return self._origins.get(name, "default") != "default"


def _applying(rules: Sequence[Rule], view: View, out: Collection[str]) -> Iterator[Rule]:
    for rule in rules:
        known = all(name in view.fields for name in rule.reads)
        if known and not any(name in out for name in rule.reads) and rule.applies(view):
            yield rule


def _single_problems(name: str, item: Any, value: Any) -> Iterator[str]:
    """What is wrong with one argument by itself: status, limits, words."""
    status, reason = status_of(item)
    if status == "refused" and value != item.default:
        yield f"{name} {shown(value)} is not available: {reason}; leave it out or write {shown(item.default)}"
    limits: Dict[str, float] = item.metadata.get("limits", {})
    if value is not None and any(not _SIGNS[sign](value, limit) for sign, limit in limits.items()):
        yield f"{name} must be {limits_text(item)}, found {value:g}"
    if name in OPTION_WORDS and value:
        yield from (f"{name}: {problem}" for problem in check_options(name, value))


def _origin(name: str, origins: Mapping[str, str]) -> str:
    return origins.get(name, "default")


def _place(names: Sequence[str], origins: Mapping[str, str]) -> str:
    """Where the first of the arguments that the user wrote stands; "not set" when none was written."""
    written = [place for place in (_origin(name, origins) for name in names) if place != "default"]
    return written[0] if written else "not set"
