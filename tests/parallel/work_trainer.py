"""One rank of a job in which a Trainer runs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Dict, List

TINY = Path(__file__).resolve().parent.parent / "trainer/conftest.py"


def tiny_run(folder: str) -> Any:
    """The trainer tests' own tiny run, without dropout."""
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.TinyRun(Path(folder))
    run.dropout = 0.0
    return run


def trained(folder: str, **changes: Any) -> Dict[str, List[float]]:
    """What a run of three steps, with an evaluation after each, logged and counted on this rank."""
    from paddlenlp.parallel import init_topology

    tiny = tiny_run(folder)
    init_topology(tiny.args(**changes))
    trainer = tiny.trainer(
        max_steps=3, do_eval=True, eval_steps=1, save_strategy="no", count_trained_tokens=True, **changes
    )
    trainer.train()
    history, state = trainer.state.log_history, trainer.state
    found = {name: [r[name] for r in history if name in r] for name in ("loss", "grad_norm", "eval_loss")}
    found["tokens"] = [state.trained_tokens, state.trained_effective_tokens, state.consumed_samples]
    found["speed"] = [key for record in history for key in record if key == "mfu"]
    return found


def runs(payload: Dict[str, Any]) -> List[Any]:
    """Every layout, evaluated as it is and in bfloat16."""
    return [
        [trained(payload["folder"], bf16_full_eval=full, **layout) for full in (False, True)]
        for layout in payload["layouts"]
    ]


def resuming(payload: Dict[str, Any]) -> List[Any]:
    """What is said where a rank sees another folder than the first one, and of a folder that is not there."""
    from work_agree import said

    from paddlenlp.parallel import init_topology
    from paddlenlp.trainer import restore

    first = os.environ["PADDLE_TRAINER_ID"] == "0"
    tiny = tiny_run(payload["folder"])
    init_topology(tiny.args())
    here = tiny_run(payload["folder"] if first else payload["elsewhere"])
    trainer = here.trainer()
    return [said(lambda: restore.find_resume(trainer.args, None)), said(lambda: trainer.train("nowhere"))]
