"""The command lines. This is the only file that knows the library that reads them."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings

from ddpm_cars.command_configs import (
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    PushConfig,
    SampleConfig,
    ShowConfig,
    ToyCarsConfig,
    TrainCommandConfig,
)
from ddpm_cars.config import ConfigError, NoiseConfig
from ddpm_cars.stock_flags import gather_lists, reading_no, spell_out_switches, with_cures

Config = TypeVar("Config")

# What a person mends with room or permissions; anything else is a mistake of the program.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}

set_parsing_settings(docstring_parse_attribute_docstrings=True)
set_loader("yaml", reading_no(get_loader("yaml")), exceptions=(yaml.YAMLError,))


class _Parser(ArgumentParser):
    setting_names: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with 2."""
        # Of several processes with one command line, the first one speaks.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            line = with_cures(" ".join(message.split()), self.setting_names)
            print(f"{self.prog}: error: {line}", file=sys.stderr)
        sys.exit(2)


def parse(
    config_class: type[Config], argv: Sequence[str] | None = None, positional: bool = False
) -> tuple[Config, _Parser]:
    """Build a config from `--config` files and flags; of settings given twice the later one counts.

    Args:
        config_class: A dataclass of `ddpm_cars.config`.
        argv: The command line without the program's name; None is that of the process.
        positional: Whether settings without a default are given by position instead of by flags.

    Returns:
        The config, and the parser, whose `error` reports what is found later.
    """
    types = {f"--{field.name}": field.type for field in fields(config_class)}  # type: ignore[arg-type]
    switches = {flag for flag, kind in types.items() if kind is bool}
    lists = {flag: "str" in str(kind) for flag, kind in types.items() if "tuple[" in str(kind)}
    hints = {"Switches may stand alone.": switches, "Lists take several words, one after the other.": lists}
    epilog = " ".join(hint for hint, flags in hints.items() if flags)
    parser = _Parser(description=config_class.__doc__, epilog=epilog, allow_abbrev=False)
    flagged = (f for f in fields(config_class) if not positional or f.default is not MISSING)  # type: ignore[arg-type]
    parser.setting_names = [field.name for field in flagged]
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    parser.add_class_arguments(config_class, as_positional=positional)
    arguments = spell_out_switches(sys.argv[1:] if argv is None else argv, switches)
    values = parser.parse_args(gather_lists(arguments, lists)).as_dict()
    values.pop("config")
    try:
        return config_class(**values), parser
    except ConfigError as error:
        parser.error(str(error))


class _Once(logging.Filter):
    """Lets a message through once: commands build many schedulers of one kind, or measure two models."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self.seen
        self.seen.add(message)
        return is_new


def _main(
    config_class: type[Config], run: Callable[[Config], Any], argv: Sequence[str] | None, positional: bool = False
) -> None:
    config, parser = parse(config_class, argv, positional)
    once = _Once()
    loggers = [logging.getLogger(f"ddpm_cars.{name}") for name in ("scheduling_ddpm_cars", "evaluation")]
    for logger in loggers:
        logger.addFilter(once)
    try:
        run(config)
    except ConfigError as error:
        parser.error(str(error))
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _end(1, f"error: {error.filename or 'a file'} cannot be written or read: {error.strerror}")
    finally:
        for logger in loggers:
            logger.removeFilter(once)


def train(argv: Sequence[str] | None = None) -> None:
    """Run scripts/train.py."""

    def run(config: TrainCommandConfig) -> None:
        # Imported late so that --help and mistakes answer at once.
        from accelerate import PartialState

        from ddpm_cars.guard import RunError, RunStopped
        from ddpm_cars.training import train

        hub_model_id = config.hub_model_id or Path(config.output_dir).resolve().name
        if config.push_to_hub:
            _check_access(hub_model_id)
        try:
            folder = train(config)
        except (FloatingPointError, RunError) as error:
            _end(1, f"error: {error}")
        except RunStopped as stop:
            # What a shell reports of a process that a signal has ended.
            _end(128 + stop.signum, str(stop))
        except KeyboardInterrupt:
            _end(130, "interrupted; the same command continues")
        if not config.dry_run:
            PartialState().print(f"model: {folder}\nsamples: {folder / 'samples.png'}\nloss: {folder / 'loss.png'}")
        if config.push_to_hub and not config.dry_run and PartialState().is_main_process:
            _push(PushConfig(folder=str(folder), repo_id=hub_model_id, private=config.hub_private_repo))

    _main(TrainCommandConfig, run, argv)


def _check_access(repo_id: str) -> None:
    from ddpm_cars.hub import check_access

    # Every process has the same token; one question is enough.
    if os.environ.get("RANK", "0") == "0" and (problem := check_access(repo_id)):
        _warn(f"{problem}; the model will be pushed when it is trained")


def push_to_hub(argv: Sequence[str] | None = None) -> None:
    """Run scripts/push_to_hub.py."""
    _main(PushConfig, _push, argv, positional=True)


def _push(config: PushConfig) -> None:
    from ddpm_cars.hub import PublishError, collect, describe, push
    from ddpm_cars.model_folder import open_model_folder

    if config.dry_run:
        folder = open_model_folder(config.folder)
        print(describe(collect(config, folder, config.repo_id)))
        _warn_of_stale(folder.stale_metrics)
        return
    try:
        published = push(config)
    except PublishError as error:
        _end(1, f"error: {error}")
    _warn_of_stale(published.stale_metrics)
    if published.kept_card:
        command = f"push_to_hub.py {config.folder} {config.repo_id} --overwrite_card"
        _warn(f"the card on the Hub has been edited there and was kept; {command} replaces it")
    print(f"published: {published.url}" if published.is_new else f"nothing has changed: {published.url}")


def _warn_of_stale(metrics: Path | None) -> None:
    if metrics is not None:
        _warn(f"{metrics} is of other weights, or of another calibration, and is left out; evaluate again")


def _warn(message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: warning: {message}", file=sys.stderr)


def _end(code: int, message: str) -> NoReturn:
    """End the process; of several with one command line, the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)


def sample(argv: Sequence[str] | None = None) -> None:
    """Run scripts/sample.py."""
    _main(SampleConfig, _sample, argv)


def _sample(config: SampleConfig) -> None:
    from ddpm_cars.sample_command import sample

    try:
        lines = sample(config)
    except KeyboardInterrupt:
        without = " without --overwrite_output_dir" if config.overwrite_output_dir else ""
        _end(130, f"interrupted; the same command{without} goes on with the pictures that are missing")
    for line in lines:
        print(line)


def calibrate(argv: Sequence[str] | None = None) -> None:
    """Run scripts/calibrate.py."""

    def run(config: CalibrateConfig) -> None:
        from ddpm_cars.calibrate_command import calibrate_folder

        print(calibrate_folder(config))

    _main(CalibrateConfig, run, argv)


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Run scripts/evaluate.py."""

    def run(config: EvaluateConfig) -> None:
        from accelerate import PartialState

        from ddpm_cars.evaluation import evaluate

        try:
            page, summary = evaluate(config)
        except KeyboardInterrupt:
            _end(130, "interrupted; the same command goes on with what is not measured yet")
        PartialState().print(f"{summary}\nreport: {page}")

    _main(EvaluateConfig, run, argv)


def show(argv: Sequence[str] | None = None) -> None:
    """Run scripts/show.py."""
    _main(ShowConfig, _show, argv)


def _show(config: ShowConfig) -> None:
    import numpy as np

    from ddpm_cars.data import load_pictures, to_samples
    from ddpm_cars.plots import forward_noising_strip, make_grid, save_png, to_pil
    from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

    images = load_pictures(config).images
    chosen = np.random.default_rng(config.seed).permutation(len(images))[: config.num_images]
    samples = to_samples(images[chosen])
    schedule = {field.name: getattr(config, field.name) for field in fields(NoiseConfig)}
    scheduler = DDPMCarsScheduler(**schedule)
    output_dir = Path(config.output_dir)
    print(f"{len(images)} pictures: {save_png(make_grid(to_pil(samples)), output_dir / 'dataset.png')}")
    strip = forward_noising_strip(samples[:4], scheduler, seed=config.seed)
    print(f"noising: {save_png(strip, output_dir / 'noising.png')}")


def draw_toy_cars(argv: Sequence[str] | None = None) -> None:
    """Run scripts/draw_toy_cars.py."""

    def run(config: ToyCarsConfig) -> None:
        from ddpm_cars.toy_cars import write_toy_cars

        try:
            folder = write_toy_cars(
                config.output_dir, config.num_train_images, config.num_test_images, config.resolution, config.seed
            )
        except (ValueError, FileExistsError) as error:
            raise ConfigError(str(error)) from error
        print(f"toy cars: {folder}")

    _main(ToyCarsConfig, run, argv)


def demo(argv: Sequence[str] | None = None) -> None:
    """Run scripts/demo.py."""
    _main(DemoConfig, _demo, argv)


def _demo(config: DemoConfig) -> None:
    from accelerate import PartialState

    try:
        from ddpm_cars.demo import build_app, launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ConfigError("the page needs gradio: pip install 'ddpm-cars[demo]'") from error

    from ddpm_cars.sampling import load_pipeline, place_to_draw

    name = path = config.pretrained_model_name_or_path
    if name is None or path is None:
        import ddpm_cars

        name, path = "Toy cars", str(ddpm_cars.pretrained())
    elif Path(path).is_dir():
        name = Path(path).resolve().name
    pipeline = load_pipeline(path)
    place_to_draw(pipeline, PartialState().device)
    app = build_app(pipeline, name, config.max_images)
    try:
        launch(app, server_name=config.server_name, server_port=config.server_port, share=config.share)
    except OSError as error:
        raise ConfigError(
            f"the page cannot be served at {config.server_name}, port {config.server_port}; choose a free one, or null"
        ) from error
