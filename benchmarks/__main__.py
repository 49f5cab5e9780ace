"""Measure ddpm_cars beside stock diffusers, alternately.

    python -m benchmarks SUITE

`scheduler` times the arithmetic of a step and computes exactly how far samples end from the data. `train` times
training from a folder of JPEGs, `sample` times the pipelines, `startup` an import and a first image, and `threads`
steps on a CPU that other programs use too. Only ratios within a run can be compared: times of different runs say
nothing beside each other, not even on one machine.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import sample as benchmark_sample
from benchmarks import scheduler as benchmark_scheduler
from benchmarks import startup as benchmark_startup
from benchmarks import threads as benchmark_threads
from benchmarks import train as benchmark_train
from benchmarks.measure import environment, table
from ddpm_cars.runtime.files import write_text

SUITES: dict[str, ModuleType] = {
    "scheduler": benchmark_scheduler,
    "train": benchmark_train,
    "sample": benchmark_sample,
    "startup": benchmark_startup,
    "threads": benchmark_threads,
}


def positive(text: str) -> int:
    """Read a number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of the process."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Measure ddpm_cars beside stock diffusers, alternately."
    )
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    for name, suite in SUITES.items():
        summary = str(suite.__doc__).splitlines()[0]
        options = suites.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        options.add_argument("--repeats", type=positive, default=suite.NUM_REPEATS, help="repeats")
        options.add_argument("--output_dir", type=Path, default=Path("runs"), help="where results go")
        suite.add_arguments(options)
    return parser.parse_args(argv)


def main() -> None:
    """Run a suite, print its tables and write them as Markdown and JSON."""
    arguments = read_arguments()
    results, measured_on = SUITES[arguments.suite].run(arguments), environment()
    parts = [", ".join(f"{k} {v}" for k, v in measured_on.items())]
    parts += [f"{title}\n\n{table(rows)}" for title, rows in results.items()]
    text = "\n\n".join(parts) + "\n"
    stem = arguments.output_dir / f"benchmark_{arguments.suite}"
    write_text(stem.with_suffix(".json"), json.dumps({"environment": measured_on, **results}, indent=1))
    write_text(stem.with_suffix(".md"), text)
    print(f"{text}\n{stem}.json, {stem}.md")


if __name__ == "__main__":
    main()
