"""Damage every file of the newest checkpoint in four ways, each alone, and start the run again.

    python benchmarks/faults/damage.py            # every file x 4, about 70 restarts: 5 minutes on two idle cores
    python benchmarks/faults/damage.py --ranks 4  # checkpoints that four ranks wrote: 30 minutes

A run of 15 steps that saves every 5 is finished; then, for each file of checkpoint-15 (the manifest is one of them) and
each of {one bit flipped, truncated, deleted, filled with zeros}, a copy of it is damaged. Required every time:
`python -m paddlenlp.checkpoint verify` ends with a code other than 0 and names the file; the same command goes on from
checkpoint-10 without help, and its log names checkpoint-15, the file and a reason; the damaged checkpoint is kept
aside; what comes out is equal, bit for bit, to what was there before. Beside that the checks alone are run on many more
damaged bits and lengths. The run is fp16 at O2, whose checkpoints also hold master weights and the loss scale.

The result goes to results/damage.json, or damage_ranks.json.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from jobs import ROOT, Place, Run, Trouble, differences, heed_sigterm, outcome, say  # noqa: E402
from results import write  # noqa: E402

from paddlenlp.checkpoint.manifest import verify  # noqa: E402

STEPS, SAVE_STEPS = 15, 5
NEWEST, BEFORE = f"checkpoint-{STEPS}", f"checkpoint-{STEPS - SAVE_STEPS}"
LOW_PRECISION = {"fp16": True, "fp16_opt_level": "O2", "scale_loss": 1024.0}


def flip(path: Path, draw: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, draw: random.Random) -> None:
    """Cut off the end: between one byte and all."""
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def delete(path: Path, draw: random.Random) -> None:
    """Remove it."""
    path.unlink()


def zero(path: Path, draw: random.Random) -> None:
    """Fill it with zeros: what a crash leaves where the length was written and the content was not."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: Tuple[Callable[[Path, random.Random], None], ...] = (flip, truncate, delete, zero)


def finished(place: Place) -> Tuple[Path, Dict[str, Any]]:
    """The folder of a run that is over, without the exported model, and its outcome."""
    run = place.run("base").succeed()
    found = outcome(run.out)
    for path in run.out.glob("model*.safetensors*"):
        path.unlink()
    return run.out, found


def files_of(checkpoint: Path) -> List[str]:
    """Every file in it, by its path from there."""
    return sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())


def cases(checkpoint: Path) -> Iterator[Tuple[str, Callable[[Path, random.Random], None]]]:
    """Every file with every damage."""
    for name in files_of(checkpoint):
        for damage in DAMAGES:
            yield name, damage


def check_only(base: Path, rounds: int) -> int:
    """Damage a copy of the newest checkpoint in every way, `rounds` times, verify it and mend it; how often.

    Raises:
        Trouble: a damage is not noticed, or another file is blamed.
    """
    copy, count = base.with_name("checked") / NEWEST, 0
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(base / NEWEST, copy)
    for number in range(rounds):
        for name, damage in cases(copy):
            whole = (copy / name).read_bytes()
            damage(copy / name, random.Random(number))
            problems = verify(copy)
            if not problems or not blames("; ".join(problems), name):
                raise Trouble(f"{name}, {damage.__name__}, seed {number}: found {problems}")
            (copy / name).write_bytes(whole)
            count += 1
    if verify(copy):
        raise Trouble(f"a mended checkpoint is refused: {verify(copy)}")
    return count


def blames(text: str, name: str) -> bool:
    """Whether a text about what is wrong names the file. A manifest that is damaged within an entry can only show in
    that the file which the entry is for does not agree with it."""
    return name in text or name == "manifest.json"


def case(place: Place, base: Path, expected: Dict[str, Any], name: str, damage: Callable, by_tool: bool = True) -> None:
    """Damage one file and go on.

    Raises:
        Trouble: what is promised does not hold.
    """
    out = place.out("case")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(base, out)
    damage(out / NEWEST / name, random.Random(f"{name} {damage.__name__}"))
    if by_tool:
        verify_by_tool(out / NEWEST, name)
    run = place.run("case").succeed()
    fell_back(run, name)
    different = differences(outcome(out), expected)
    if different:
        raise Trouble(f"not equal to the run before the damage: {', '.join(different)}")
    aside = [path.name for path in out.iterdir() if path.name.startswith(f"{NEWEST}.rejected")]
    if not aside:
        raise Trouble(f"the damaged checkpoint was not kept: {sorted(path.name for path in out.iterdir())}")


def verify_by_tool(folder: Path, name: str) -> None:
    """Whether the command that verifies checkpoints refuses this one and names the file."""
    command = [sys.executable, "-m", "paddlenlp.checkpoint", "verify", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 or not blames(done.stdout + done.stderr, name):
        raise Trouble(f"verify: code {done.returncode}, {done.stdout[-500:]} {done.stderr[-500:]}")


def fell_back(run: Run, name: str) -> None:
    """Whether the log says which checkpoint was not used, because of which file, and which one was."""
    log = run.log()
    warned = any(NEWEST in line for line in log.splitlines() if "WARNING" in line)
    if not warned or not blames(log, name):
        raise Trouble(f"no warning names {NEWEST} and {name}\n{log[:3000]}")
    if f"Continuing training from global step {STEPS - SAVE_STEPS}" not in log:
        raise Trouble(f"it did not go on from {BEFORE}\n{log[:3000]}")


def campaign(folder: Path, ranks: int = 1, rounds: int = 20) -> Dict[str, Any]:
    """All damages; the figures."""
    place = Place(folder, ranks, max_steps=STEPS, save_steps=SAVE_STEPS, **LOW_PRECISION)
    base, expected = finished(place)
    names, troubles = files_of(base / NEWEST), []
    checked = check_only(base, rounds)
    total = len(DAMAGES) * len(names)
    for number, (name, damage) in enumerate(cases(base / NEWEST), 1):
        try:
            case(place, base, expected, name, damage)
            say(f"damage {number} of {total}: {name}, {damage.__name__}: detected, fell back, equal")
        except Trouble as trouble:
            troubles.append(f"{name}, {damage.__name__}: {trouble}")
            say(f"damage {number} of {total}: {troubles[-1]}")
    found = {"files": names, "damages": total, "recovered": total - len(troubles)}
    return {**found, "checked_without_restart": checked, "troubles": troubles}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1, choices=[1, 4])
    parser.add_argument("--rounds", type=int, default=20, help="how often each file is damaged for the checks alone")
    args = parser.parse_args()
    heed_sigterm()
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    found = campaign(folder, args.ranks, args.rounds)
    done, total, files, checked = (
        found["recovered"],
        found["damages"],
        len(found["files"]),
        f"{found['checked_without_restart']:,}",
    )
    write(
        "damage" if args.ranks == 1 else "damage_ranks",
        done == total,
        found,
        f"{done} of {total} ({files} files x 4) detected and recovered from, equal bit for bit; {checked} further "
        "damages all detected",
        f"{total} 次（{files} 个文件 x 4 种损坏）中 {done} 次检出并自动恢复，逐位相同；另外 {checked} 次损坏全部检出",
    )
    if done == total:
        shutil.rmtree(folder)
    sys.exit(done != total)


if __name__ == "__main__":
    main()
