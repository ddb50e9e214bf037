"""Pretrain a causal language model.

    python llm/run_pretrain.py CONFIG.json [--flag value ...]
    python llm/run_pretrain.py --help [WORD]
    python -m paddle.distributed.launch --nproc_per_node 8 llm/run_pretrain.py CONFIG.json [--flag value ...]

Read it from `main` down: things stand in the order in which they happen. What can be wrong with the input is found
before Paddle is imported, and long before the model is built.
"""

from __future__ import annotations

import math
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone works without installation

from paddlenlp.data import (
    DocumentBounds,
    build_train_valid_test_datasets,
    check_data,
    check_data_split,
    collate_causal_lm,
    get_train_data_file,
)
from paddlenlp.parallel import signals
from paddlenlp.parallel.failure import run_as_rank
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.parallel.watchdog import watched
from paddlenlp.trainer import DataArguments, ModelArguments, PdArgumentParser, PreTrainingArguments, reporting
from paddlenlp.trainer.document_bounds import document_bounds
from paddlenlp.trainer.forecast_callback import CompareForecast, foresee
from paddlenlp.trainer.micro_batch import choose_micro_batch
from paddlenlp.trainer.model_fit import check_model_fits
from paddlenlp.trainer.rehearsal import Run, rehearse
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import forgive_output, logger
from paddlenlp.utils.retries import retries

if TYPE_CHECKING:
    from paddlenlp.trainer import Trainer, TrainOutput

RECORD = "run_config.json"


def main(argv: Optional[Sequence[str]] = None) -> None:
    """One run, from the command line to the last metrics.

    Raises:
        UsageError: wrong input; the message says what to do.
    """
    signals.listen()
    parser = PdArgumentParser((ModelArguments, DataArguments, PreTrainingArguments))
    model_args, data_args, args = parser.parse(argv)
    reporting.quieten(args)
    retries.limit = args.read_retries
    for note in parser.notes:
        logger.info(note)
    if args.dry_run:
        found = look(parser, model_args, data_args, args)
        return rehearse(found, partial(build_datasets, data_args, args), Path(__file__))
    with watched(args.hang_timeout, args.world_size):
        run(parser, model_args, data_args, args)


def look(
    parser: PdArgumentParser, model_args: ModelArguments, data_args: DataArguments, args: PreTrainingArguments
) -> Run:
    """Read and check all that the run begins with; nothing is written, and Paddle is not imported."""
    tokenizer = load_tokenizer(model_args)
    config = model_config(model_args, data_args, tokenizer, args.mesh.tp)
    check_model_fits(config, args)
    data_files = find_data(data_args, args, tokenizer, config.vocab_size)
    bounds = document_bounds(data_args, config, tokenizer, data_files[1::2] or data_files)
    return Run(model_args, data_args, args, parser.origins, tokenizer, config, data_files, bounds)


def run(
    parser: PdArgumentParser, model_args: ModelArguments, data_args: DataArguments, args: PreTrainingArguments
) -> None:
    """One run, with its arguments. How long one rank may keep the others waiting is watched."""
    tokenizer, config, data_files, bounds = look(parser, model_args, data_args, args)[-4:]
    record = write_record(parser, (model_args, data_args, args))

    tune_process(args, parser)
    join_processes(args, data_args)
    args = fit_micro_batch(parser, model_args, data_args, args, config)
    plan = foresee(args, config, data_args.max_seq_length)
    model = build_model(model_args, args, config)
    datasets = build_datasets(data_args, args, data_files)
    log_samples(datasets, args, tokenizer)
    trainer = build_trainer(model, args, datasets, tokenizer, record, bounds)
    trainer.add_callback(CompareForecast(plan))
    if args.train_enabled:
        train(trainer, args, data_args.max_seq_length)
    if args.predict_enabled:
        predict(trainer, datasets["test"])
    beat.enter("end")
    log_whereabouts(args)
    leave_together()


def load_tokenizer(model_args: ModelArguments) -> Any:
    from paddlenlp.transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_args.tokenizer_source)


def model_config(model_args: ModelArguments, data_args: DataArguments, tokenizer: Any, tp: int) -> Any:
    """The shape of the model; when training from scratch, grown to hold the tokenizer and the sequence, and to be cut
    over `tp` ranks."""
    from paddlenlp.transformers import AutoConfig
    from paddlenlp.transformers.hub import resolve_folder

    source = model_args.config_source
    if model_args.continue_training:  # the shape that belongs to the weights, even of a model known by name
        source = str(resolve_folder(source, ("config.json",)))
    config = AutoConfig.from_pretrained(source)
    config.seq_length = data_args.max_seq_length
    if model_args.continue_training:
        refuse_larger_tokenizer(model_args, config.vocab_size, len(tokenizer))
    else:
        config.max_position_embeddings = max(config.max_position_embeddings, data_args.max_seq_length)
        grow_vocabulary(config, len(tokenizer), tp)
    if model_args.num_hidden_layers is not None:
        config.num_hidden_layers = model_args.num_hidden_layers
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, getattr(model_args, name))
    for name in ("fuse_attention_qkv", "fuse_attention_ffn"):
        if getattr(model_args, name) is not None:
            setattr(config, name, getattr(model_args, name))
    return config


def grow_vocabulary(config: Any, tokens: int, tp: int) -> None:
    """At least as many rows as the tokenizer has tokens, in multiples of 128 (which matrix units like); and so many
    that `tp` ranks can hold an equal share."""
    rows = max(config.vocab_size, math.ceil(tokens / 128) * 128)
    shared = rows if rows % tp == 0 else math.ceil(rows / (128 * tp)) * 128 * tp
    if shared != config.vocab_size:
        cut = f", cut over {tp} tensor-parallel ranks" if shared != rows else ""
        logger.info(
            f"Reset vocab size to {shared} (from {config.vocab_size}) to hold the tokenizer's {tokens} tokens{cut}."
        )
        config.vocab_size = shared


def refuse_larger_tokenizer(model_args: ModelArguments, rows: int, tokens: int) -> None:
    if tokens > rows:
        raise UsageError(
            f"The tokenizer {model_args.tokenizer_source!r} has {tokens} tokens, but the weights of "
            f"{model_args.model_name_or_path!r} have rows for {rows}. Give the model's own tokenizer with "
            "--tokenizer_name_or_path, or train from random weights with --continue_training false."
        )


@beat.phase("data")
def find_data(data_args: DataArguments, args: PreTrainingArguments, tokenizer: Any, vocab_size: int) -> List[Any]:
    """`[prefix]` or `[weight, prefix, ...]`, every file opened and checked."""
    check_data_split(data_args.split, args.train_enabled, args.eval_enabled, args.predict_enabled)
    found = get_train_data_file(data_args.input_dir)
    prefixes = found[1::2] or found
    check_data(prefixes, data_args.data_impl, vocab_size=vocab_size, tokenizer_sha256=tokenizer.fingerprint())
    return found


def write_record(parser: PdArgumentParser, arguments: Sequence[Any]) -> Path:
    """Write every argument with its origin, and versions, on the first rank; a copy goes with each checkpoint."""
    from paddlenlp.trainer.run_record import write_run_record

    record = Path(arguments[-1].output_dir) / RECORD
    if arguments[-1].process_index > 0:
        return record
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_run_record(record, parser, arguments, {})
    except OSError as error:
        raise write_failed(record.parent, error, what="into the output_dir") from None
    return record


def tune_process(args: PreTrainingArguments, parser: PdArgumentParser) -> None:
    """Import Paddle, tuned for this machine, and choose the device."""
    from paddlenlp.trainer.device import resolve_device
    from paddlenlp.utils.cpu_tuning import apply_cpu_tuning, runs_on_cpu

    warnings.filterwarnings("ignore", message="No ccache found")  # only compiling operators would want it
    if args.cpu_tuning and runs_on_cpu(args.place):
        done = "; ".join(apply_cpu_tuning()) or "nothing to set"
        logger.info(f"CPU tuning (turn off with --cpu_tuning false): {done}")
    with signals.held():
        import paddle

        signals.listen()  # again: importing Paddle has set handlers of its own
    paddle.set_device(resolve_device(args, parser.origins))
    logger.info(
        f"Process rank: {args.process_index}, device: {paddle.get_device()}, world_size: {args.world_size}, "
        f"distributed training: {args.world_size > 1}, 16-bits training: {args.amp_dtype is not None}"
    )


def join_processes(args: PreTrainingArguments, data_args: DataArguments) -> None:
    """Form the groups in which the processes of the job communicate."""
    from paddlenlp.parallel import init_topology

    init_topology(args)
    reporting.announce_mesh(args, data_args.max_seq_length)


def fit_micro_batch(
    parser: PdArgumentParser,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: PreTrainingArguments,
    config: Any,
) -> PreTrainingArguments:
    """The arguments with the micro batch that `auto_micro_batch` chooses; the record of the run has it too."""
    chosen = choose_micro_batch(args, config, data_args)
    if chosen is not args:
        write_record(parser, (model_args, data_args, chosen))
    return chosen


def leave_together() -> None:
    """Go when all are done: a process that goes earlier takes its end of every connection with it."""
    from paddlenlp.parallel import topology

    topology().world.group.barrier()


def build_model(model_args: ModelArguments, args: PreTrainingArguments, config: Any) -> Any:
    from paddlenlp.nn import configure_run, kernels
    from paddlenlp.transformers import AutoModelForCausalLM, AutoModelForCausalLMPipe

    configure_run(args, model_args)
    for line in kernels.report():
        logger.info(line)
    if args.should_log:
        print("Final pre-training config:", config, flush=True)
    auto = AutoModelForCausalLMPipe if args.mesh.pp > 1 else AutoModelForCausalLM
    if model_args.continue_training and not args.autotuner_benchmark:
        return auto.from_pretrained(model_args.model_name_or_path, config=config, dtype=args.dtype)
    return auto.from_config(config, dtype=args.dtype)


@beat.phase("data")
def build_datasets(data_args: DataArguments, args: PreTrainingArguments, data_files: List[Any]) -> Dict[str, Any]:
    """Training, validation and test samples, as many as the run reads; None for a split that is not used.

    One process of all that see the same folder builds the index that the others wait for.
    """
    from paddlenlp.data.pretraining_data import written_folders
    from paddlenlp.data.shared_storage import builds_index
    from paddlenlp.parallel.agree import all_do
    from paddlenlp.parallel.objects import everyones

    steps, ranks = args.effective_max_steps, args.dataset_world_size
    evaluations = steps // args.effective_eval_steps + 1
    sizes = [
        args.samples_per_step * steps * args.train_enabled,
        args.per_device_eval_batch_size * ranks * args.eval_iters * evaluations * args.eval_enabled,
        args.per_device_eval_batch_size * ranks * args.test_iters * args.predict_enabled,
    ]
    build = partial(
        build_train_valid_test_datasets,
        data_files,
        data_args.data_impl,
        data_args.split,
        sizes,
        data_args.max_seq_length,
        args.seed,
        data_args.skip_warmup,
        share_folder=data_args.share_folder,
        data_cache_path=data_args.data_cache,
        stable_order=data_args.stable_data_order,
        spare_cache_path=str(Path(args.output_dir, "index-cache")),
        is_builder=builds_index(written_folders(data_files, data_args.data_cache), data_args.share_folder, everyones),
    )
    return dict(zip(("train", "valid", "test"), all_do(build)))


def log_samples(datasets: Dict[str, Any], args: PreTrainingArguments, tokenizer: Any) -> None:
    """The start of each split's first sample, as text: a wrong tokenizer or dataset is seen here."""
    for name, dataset in datasets.items():
        if dataset is not None and args.should_log:
            start = tokenizer.decode(dataset[0]["text"][:32].tolist())
            logger.info(f"Sample data for {name} mode. {start!r} ...")


def build_trainer(
    model: Any,
    args: PreTrainingArguments,
    datasets: Dict[str, Any],
    tokenizer: Any,
    record: Path,
    bounds: Optional[DocumentBounds],
) -> Trainer:
    from paddlenlp.trainer import Trainer

    config = model.config
    return Trainer(
        model,
        args,
        data_collator=partial(
            collate_causal_lm,
            context_end=config.get("context_end_token_id"),
            vocab_size=config.vocab_size,
            bounds=bounds,
        ),
        train_dataset=datasets["train"],
        eval_dataset=datasets["valid"],
        tokenizer=tokenizer,
        extra_checkpoint_files=[record],
    )


def train(trainer: Trainer, args: PreTrainingArguments, seq_length: int) -> None:
    """Train, evaluate the final weights, save everything."""
    result = trainer.train(args.resume_from_checkpoint)
    if not args.autotuner_benchmark:
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if args.eval_enabled:
        metrics = trainer.final_evaluation()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if args.should_log:
        print_speed(result, seq_length)


def predict(trainer: Trainer, dataset: Any) -> None:
    metrics = trainer.predict(dataset).metrics
    trainer.log_metrics("test", metrics)
    trainer.save_metrics("test", metrics)


def print_speed(result: TrainOutput, seq_length: int) -> None:
    """The reference's two closing lines."""
    speed = result.metrics.get("train_samples_per_second", 0.0) * seq_length
    print(f"Effective Tokens per second: {speed:.2f}\nips: {speed:.2f} tokens/s", flush=True)


def log_whereabouts(args: PreTrainingArguments) -> None:
    folder = args.logging_dir or f"{args.output_dir}/runs"
    curves = f" Curves: visualdl --logdir {folder}." if "visualdl" in args.reporters else ""
    logger.info(
        f"Done. Everything is in {args.output_dir}: the trained model and its tokenizer (AutoModelForCausalLM."
        f"from_pretrained loads them), checkpoint-*/, metrics.jsonl, all_results.json, {RECORD}.{curves} To train "
        "longer raise --max_steps and run again: it goes on from the last checkpoint."
    )


if __name__ == "__main__":
    forgive_output()
    sys.exit(run_as_rank(main))
