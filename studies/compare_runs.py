"""Say how far apart two runs are: weights, averages, optimiser state and losses at the newest step that both have.

    python -m studies.compare_runs RUN OTHER_RUN

A difference is the norm of the difference divided by the norm of the first, over all tensors of a file.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from ddpm_cars.runs.run_folder import RunFolder


def newest_common_step(run: Path, other: Path) -> str:
    """Return the name of the newest checkpoint that both runs have."""
    names = [{path.name for path in RunFolder(folder).checkpoints.glob("step-*")} for folder in (run, other)]
    common = names[0] & names[1]
    if not common:
        raise SystemExit(f"{run} has {sorted(names[0])} and {other} has {sorted(names[1])}: no step is in both")
    return max(common)


def tensor_distance(file: Path, other: Path) -> float:
    """Return the relative distance of all tensors of two files, 0 if they are the same bits."""
    tensors, others = load_file(file), load_file(other)
    if tensors.keys() != others.keys():
        raise SystemExit(f"{file} and {other} hold different tensors")
    # Adam counts its steps in every parameter, and these numbers would outweigh the moments.
    names = [name for name in tensors if not name.endswith(".step")]
    difference = sum((others[n].double() - tensors[n].double()).square().sum().item() for n in names)
    return math.sqrt(difference / sum(tensors[n].double().square().sum().item() for n in names))


def loss_distance(run: Path, other: Path, step: int) -> float:
    """Return the largest relative difference of the losses that both logged up to a step."""
    losses = [
        {record["step"]: record["loss"] for record in json.loads(RunFolder(folder).loss.read_text())}
        for folder in (run, other)
    ]
    common = [s for s in losses[0] if s in losses[1] and s <= step]
    return max((abs(losses[1][s] - losses[0][s]) / abs(losses[0][s]) for s in common), default=math.nan)


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of the process."""
    parser = argparse.ArgumentParser(
        "python -m studies.compare_runs", description="Say how far apart two runs are at the newest step of both."
    )
    parser.add_argument("run", type=Path, help="output folder of a run")
    parser.add_argument("other", type=Path, help="output folder of another")
    return parser.parse_args(argv)


def main() -> None:
    """Compare and print a table."""
    arguments = read_arguments()
    step = newest_common_step(arguments.run, arguments.other)
    print(f"| {step} | relative difference |\n|---|---|")
    folder, other = (RunFolder(run).checkpoints / step for run in (arguments.run, arguments.other))
    with torch.inference_mode():
        for file in sorted(folder.rglob("*.safetensors")):
            print(f"| {file.stem} | {tensor_distance(file, other / file.relative_to(folder)):.1e} |")
    print(f"| losses | {loss_distance(arguments.run, arguments.other, int(step[5:])):.1e} |")


if __name__ == "__main__":
    main()
