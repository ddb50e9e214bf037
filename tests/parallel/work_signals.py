"""One rank of jobs of two that a signal ends, which reaches the second rank only."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from typing import Any, Callable, Dict, List

from work_trainer import tiny_run

RANK = int(os.environ.get("PADDLE_TRAINER_ID") or 0)
OPTIONS = {"max_steps": 4, "save_steps": 10, "logging_steps": 1, "do_eval": True, "eval_steps": 2}
LONG = 60.0


def interrupted(payload: Dict[str, Any]) -> List[Any]:
    """For each layout and phase: where the run stopped, what it left, and whether what follows is as if it had not."""
    from paddlenlp.parallel import signals

    signals.listen()
    return [
        [_case(f"{payload['folder']}/{number}", layout, phase) for phase in payload["phases"]]
        for number, layout in enumerate(payload["layouts"])
    ]


def _case(folder: str, layout: Dict[str, Any], phase: str) -> Dict[str, Any]:
    from paddlenlp.parallel import init_topology, signals, topology

    tiny = tiny_run(f"{folder}/{phase}")
    tiny.dropout = 0.1
    options = {**OPTIONS, **layout}
    init_topology(tiny.args(**options))
    whole = tiny.trainer(output_dir=f"{folder}/whole", **{**options, "save_strategy": "no"})
    whole.train()
    trainer, then = PHASES[phase](tiny, options)
    try:
        trainer.train()
        found = "it did not stop"
    except signals.Agreed as error:
        found = f"{error.number} {error}"
    then()
    stopped = trainer.state.global_step
    evaluated = [record["global_step"] for record in trainer.state.log_history if "eval_loss" in record]
    signals.forget()
    topology().world.group.barrier()
    again = tiny.trainer(**options)
    again.train()
    return {
        "said": found,
        "step": stopped,
        "evaluated": evaluated,
        "left": sorted(path.name for path in tiny.folder.glob("checkpoint-*")),
        "equal": _hash(again) == _hash(whole),
        "curves": [_curves(again), _curves(whole)],
    }


def _send() -> None:
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGUSR1)


def _in_a_micro_batch(tiny: Any, options: Dict[str, Any]) -> Any:
    """The signal comes in the first forward pass of the second step."""
    import paddle

    trainer, passes = tiny.trainer(**options), [0]
    run = trainer.model.run

    def counted(*args: Any, **kwargs: Any) -> Any:
        passes[0] += paddle.is_grad_enabled()
        if paddle.is_grad_enabled() and passes[0] == options["gradient_accumulation_steps"] + 1:
            _send()
        return run(*args, **kwargs)

    trainer.model.run = counted
    return trainer, lambda: None


def _while_it_evaluates(tiny: Any, options: Dict[str, Any]) -> Any:
    from paddlenlp.parallel import signals

    def send(*_: Any, **__: Any) -> None:
        if not signals.heard():
            _send()

    return tiny.trainer(callbacks=[_callback(on_prediction_step=send)], **options), lambda: None


def _while_data_does_not_come(tiny: Any, options: Dict[str, Any]) -> Any:
    """The first rank waits for a sample of its second step, which would never come; the second rank has its own."""
    args = tiny.args(**options)
    data = Waits(args.samples_per_step)
    callback = _callback(on_step_end=lambda *_, **__: threading.Timer(0.5, _send).start())
    return tiny.trainer(data=data, callbacks=[callback], **options), data.come.set


def _callback(**events: Any) -> Any:
    from paddlenlp.trainer.callbacks import TrainerCallback

    return type("Sends", (TrainerCallback,), events)


class Waits:
    """Samples of which on the first rank those behind the first `first` ones do not come until `come` is set."""

    def __init__(self, first: int) -> None:
        import numpy as np

        self.first, self.come = first, threading.Event()
        self.samples = np.random.RandomState(0).randint(0, 64, (64, 17)).astype("int64")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if index >= self.first and RANK == 0:
            assert self.come.wait(LONG)
        return {"text": self.samples[index]}


PHASES: Dict[str, Callable[[Any, Dict[str, Any]], Any]] = {
    "micro batch": _in_a_micro_batch,
    "evaluation": _while_it_evaluates,
    "data": _while_data_does_not_come,
}


def _hash(trainer: Any) -> str:
    digest, optimizer = hashlib.sha256(), trainer.optimizer
    for piece in optimizer.pieces:
        digest.update(f"{piece.name} {piece.start}".encode())
        for value in [piece.weight, *optimizer.states(piece).values()]:
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _curves(trainer: Any) -> List[Any]:
    history = trainer.state.log_history
    return [[r["global_step"], r[name]] for name in ("loss", "eval_loss") for r in history if name in r]
