"""The dry run: what a run does up to its first step, on one process, without weights and without a device.

Each part calls what the run itself calls, so that what would stop the run stops the rehearsal with the same words.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from paddlenlp.checkpoint.folder import checkpoint_folders
from paddlenlp.checkpoint.space import check_run_fits
from paddlenlp.doctor.finding import OK, WARN, Finding
from paddlenlp.utils.disk import free_bytes
from paddlenlp.utils.errors import UsageError


class Run(NamedTuple):
    """What is known of a run when its arguments, tokenizer, configuration and data files have been read.

    Attributes:
        model_args, data_args, args: the arguments.
        origins: where they were written.
        tokenizer, config: of the model.
        data_files: prefixes, or weights and prefixes.
        bounds: see `document_bounds`.
    """

    model_args: Any
    data_args: Any
    args: Any
    origins: Dict[str, str]
    tokenizer: Any
    config: Any
    data_files: List[Any]
    bounds: Any


def rehearse(run: Run, build_datasets: Callable[[List[Any]], Dict[str, Any]], script: Path) -> None:
    """Go through what comes before the first step, and say what each part came to.

    Args:
        build_datasets: makes of the data files the datasets by name, and their index where there is none.
        script: the program of the run.

    Raises:
        UsageError: what the run would end with.
    """
    if run.args.process_index > 0:  # under a launcher the first rank rehearses for all
        return
    _without_device()
    for part in (arguments, tokenizer, data, model, checkpoints, plan):
        _tell(part(run))
    _tell(index(run, build_datasets))
    if run.args.dry_run_step:
        from paddlenlp.trainer.rehearsal_step import one_step

        _tell(one_step(run, script))
    print(
        "\nThe dry run found nothing that would stop the run. Nothing was written but the index of the data.",
        flush=True,
    )


def _tell(finding: Finding) -> None:
    print(finding.line(), flush=True)


def _without_device() -> None:
    """Have Paddle leave the GPUs alone."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle

    paddle.set_device("cpu")


def arguments(run: Run) -> Finding:
    """How the processes are shared out, and how large a step is."""
    args, seq_length = run.args, run.data_args.max_seq_length
    written = sum(origin != "default" for origin in run.origins.values())
    tokens = args.samples_per_step * seq_length
    step = f"a step is {args.samples_per_step:,} samples ({tokens:,} tokens), {args.effective_max_steps:,} steps"
    return Finding(
        "arguments", OK, f"{written} given; {args.mesh}; {step} = {tokens * args.effective_max_steps:,} tokens"
    )


def tokenizer(run: Run) -> Finding:
    """That it and the model's vocabulary go together has been checked where the configuration was made."""
    tokens, rows = len(run.tokenizer), run.config.vocab_size
    return Finding("tokenizer", OK, f"{tokens:,} tokens; the vocabulary of the model has {rows:,} rows")


def data(run: Run) -> Finding:
    """The files have been opened and checked."""
    prefixes = run.data_files[1::2] or run.data_files
    bounds = "" if run.bounds is None else "; documents are told apart"
    return Finding("data files", OK, f"{len(prefixes)} checked: {', '.join(map(str, prefixes[:3]))}{bounds}")


def model(run: Run) -> Finding:
    """Its stages without values; where it starts from weights, that they are those of this model."""
    from paddlenlp.planning.abstract import abstract_model

    made = abstract_model(run.config)
    text = f"{run.config.model_type}, {made.parameters:,} parameters in {len(made.stages)} stages, {run.args.dtype}"
    if run.model_args.continue_training and not run.args.autotuner_benchmark:
        text += f"; begins with the weights of {_check_weights(run)}"
    return Finding("model", OK, text)


def _check_weights(run: Run) -> Path:
    """Compare names and shapes with those of the stored weights, as reading them does."""
    from paddlenlp.transformers.conversion_utils import StoredWeights, plan_weights
    from paddlenlp.transformers.convert import sketch
    from paddlenlp.transformers.hub import resolve_folder

    stored = StoredWeights(resolve_folder(run.model_args.model_name_or_path))
    whole = sketch(run.config, run.args.dtype)
    plan_weights(whole, stored, stored.out_first(whole))
    return stored.folder


def checkpoints(run: Run) -> Finding:
    """Where the run begins, and whether its checkpoints fit on the disk."""
    from paddlenlp.planning.abstract import abstract_model
    from paddlenlp.trainer.checkpoint_size import bytes_of_checkpoint
    from paddlenlp.trainer.forecast import size_text
    from paddlenlp.trainer.keeper import planned_checkpoints

    args = run.args
    begun_from = _begins_from(args)
    start = f"goes on from {begun_from}" if begun_from else "begins at step 0"
    if not args.save_enabled:
        return Finding("checkpoints", OK, f"{start}; none are saved")
    each = bytes_of_checkpoint(abstract_model(run.config), args)
    here = checkpoint_folders(args.output_dir) if Path(args.output_dir).is_dir() else []
    stale = here if begun_from is None else []
    check_run_fits(args.output_dir, each, planned_checkpoints(args, begun_from, stale))
    free = free_bytes(args.output_dir)
    return Finding("checkpoints", OK, f"{start}; {size_text(each)} each, {size_text(free)} are free for them")


def _begins_from(args: Any) -> Optional[Path]:
    """The checkpoint that the run would go on from; nothing is set aside."""
    from paddlenlp.checkpoint.folder import verify
    from paddlenlp.trainer.restore import check

    if args.resume_from_checkpoint:
        check(Path(args.resume_from_checkpoint))
        return Path(args.resume_from_checkpoint)
    if args.effective_overwrite_output_dir or not Path(args.output_dir).is_dir():
        return None
    return next((folder for folder in reversed(checkpoint_folders(args.output_dir)) if not verify(folder, 0, 1)), None)


def plan(run: Run) -> Finding:
    """Memory and speed; that it fits, where the device is known."""
    from paddlenlp.trainer.forecast import device_here, device_named, forecast, require_fit

    args = run.args
    named = args.plan_gpu or ("cpu" if args.place == "cpu" else None)
    hardware = device_named(named) if named else device_here("gpu")
    device = "cpu" if named == "cpu" else "gpu"
    found = forecast(run.config, args, run.data_args.max_seq_length, hardware, device)
    require_fit(found)
    text = "; ".join(line.removeprefix("Plan: ") for line in found.lines())
    if hardware is None:
        advice = "Whether that fits depends on the device: name it with --plan_gpu, such as a100-80g."
        return Finding("plan", WARN, text, advice)
    return Finding("plan", OK, text)


def index(run: Run, build_datasets: Callable[[List[Any]], Dict[str, Any]]) -> Finding:
    """The index of the data, built or checked, and the text of the first sample."""
    start = time.perf_counter()
    datasets = {name: dataset for name, dataset in build_datasets(run.data_files).items() if dataset is not None}
    if not datasets:
        raise UsageError("Nothing is to be done with the data: set do_train, do_eval or do_predict to true.")
    counts = ", ".join(f"{len(dataset):,} samples for {name}" for name, dataset in datasets.items())
    first = next(iter(datasets.values()))[0]["text"]
    text = run.tokenizer.decode(first[:16].tolist())
    return Finding("index", OK, f"{counts}, in {time.perf_counter() - start:.1f} s; the first begins {text!r}")
