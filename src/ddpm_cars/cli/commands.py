"""The command lines. This is the only file that knows the library that reads them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from ddpm_cars.cli.messages import _DISK_ERRORS, _end
from ddpm_cars.cli.parser import Config, parse
from ddpm_cars.cli.show import _show
from ddpm_cars.cli.stock_flags import with_no_as_a_word
from ddpm_cars.config.commands import (
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    PushConfig,
    SampleConfig,
    ShowConfig,
    ToyCarsConfig,
)
from ddpm_cars.config.training import TrainCommandConfig
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import each_warning_once, is_main_process, warn

set_parsing_settings(docstring_parse_attribute_docstrings=True)

set_loader("yaml", with_no_as_a_word(get_loader("yaml")), exceptions=(yaml.YAMLError,))


def _main(
    config_class: type[Config], run: Callable[[Config], Any], argv: Sequence[str] | None, positional: bool = False
) -> None:
    config, parser = parse(config_class, argv, positional)
    try:
        with each_warning_once():
            run(config)
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _end(1, f"error: {error.filename or 'a file'} cannot be written or read: {error.strerror}")


def train(argv: Sequence[str] | None = None) -> None:
    """Run scripts/train.py."""

    def run(config: TrainCommandConfig) -> None:
        # Imported late so that --help and mistakes answer at once.
        from accelerate import PartialState

        from ddpm_cars.errors import RunError, RunStopped
        from ddpm_cars.training.trainer import train

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
    from ddpm_cars.publishing.hub import check_access

    # Every process has the same token; one question is enough.
    if is_main_process() and (problem := check_access(repo_id)):
        warn(f"{problem}; the model will be pushed when it is trained")


def push_to_hub(argv: Sequence[str] | None = None) -> None:
    """Run scripts/push_to_hub.py."""
    _main(PushConfig, _push, argv, positional=True)


def _push(config: PushConfig) -> None:
    from ddpm_cars.errors import PublishError
    from ddpm_cars.publishing.files import collect, describe
    from ddpm_cars.publishing.hub import push
    from ddpm_cars.runs.model_folder import open_model_folder

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
        warn(f"the card on the Hub has been edited there and was kept; {command} replaces it")
    print(f"published: {published.url}" if published.is_new else f"nothing has changed: {published.url}")


def _warn_of_stale(metrics: Path | None) -> None:
    if metrics is not None:
        warn(f"{metrics} is of other weights, or of another calibration, and is left out; evaluate again")


def sample(argv: Sequence[str] | None = None) -> None:
    """Run scripts/sample.py."""
    _main(SampleConfig, _sample, argv)


def _sample(config: SampleConfig) -> None:
    from ddpm_cars.sampling.sample import sample

    try:
        lines = sample(config)
    except KeyboardInterrupt:
        without = " without --overwrite_output_dir" if config.overwrite_output_dir else ""
        _end(130, f"interrupted; the same command{without} goes on with the images that are missing")
    for line in lines:
        print(line)


def calibrate(argv: Sequence[str] | None = None) -> None:
    """Run scripts/calibrate.py."""

    def run(config: CalibrateConfig) -> None:
        from ddpm_cars.sampling.calibrate import calibrate_folder

        print(calibrate_folder(config))

    _main(CalibrateConfig, run, argv)


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Run scripts/evaluate.py."""

    def run(config: EvaluateConfig) -> None:
        from accelerate import PartialState

        from ddpm_cars.evaluation.evaluate import evaluate

        try:
            page, summary = evaluate(config)
        except KeyboardInterrupt:
            _end(130, "interrupted; the same command goes on with what is not measured yet")
        PartialState().print(f"{summary}\nreport: {page}")

    _main(EvaluateConfig, run, argv)


def show(argv: Sequence[str] | None = None) -> None:
    """Run scripts/show.py."""
    _main(ShowConfig, _show, argv)


def draw_toy_cars(argv: Sequence[str] | None = None) -> None:
    """Run scripts/draw_toy_cars.py."""

    def run(config: ToyCarsConfig) -> None:
        from ddpm_cars.toy_cars.dataset import write_toy_cars

        try:
            folder = write_toy_cars(
                config.output_dir, config.num_train_images, config.num_test_images, config.resolution, config.seed
            )
        except (ValueError, FileExistsError) as error:
            raise UserError(str(error)) from error
        print(f"toy cars: {folder}")

    _main(ToyCarsConfig, run, argv)


def demo(argv: Sequence[str] | None = None) -> None:
    """Run scripts/demo.py."""
    _main(DemoConfig, _demo, argv)


def _demo(config: DemoConfig) -> None:
    from accelerate import PartialState

    try:
        from ddpm_cars.demo.app import build_app, launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("the page needs gradio: pip install 'ddpm-cars[demo]'") from error

    from ddpm_cars.runs.load import load_pipeline
    from ddpm_cars.sampling.generate import move_for_inference

    name = path = config.pretrained_model_name_or_path
    if name is None or path is None:
        import ddpm_cars

        name, path = "Toy cars", str(ddpm_cars.pretrained())
    elif Path(path).is_dir():
        name = Path(path).resolve().name
    pipeline = load_pipeline(path)
    move_for_inference(pipeline, PartialState().device)
    app = build_app(pipeline, name, config.max_images)
    try:
        launch(app, server_name=config.server_name, server_port=config.server_port, share=config.share)
    except OSError as error:
        raise UserError(
            f"the page cannot be served at {config.server_name}, port {config.server_port}; choose a free one, or null"
        ) from error
