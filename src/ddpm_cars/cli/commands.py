"""The commands: each one's settings, what it runs and how it ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cars.cli.messages import DISK_ERRORS, end
from ddpm_cars.cli.parser import parse
from ddpm_cars.cli.show import show_images
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
from ddpm_cars.errors import PublishError, RunError, RunStopped, UserError
from ddpm_cars.runtime.console import each_warning_once, is_main_process, warn


@dataclass(frozen=True)
class Command:
    """A command of `ddpm-cars`.

    Attributes:
        config_class: Its settings.
        run: What it does with them; it is also given what the user has typed to start the command.
        script: The name of its script in a checkout, without .py.
        positional: Whether settings without a default are given by position.
    """

    config_class: type[Any]
    run: Callable[[Any, str], None]
    script: str
    positional: bool = False

    @property
    def sentence(self) -> str:
        """What it does."""
        return str(self.config_class.__doc__).partition("\n")[0]


def run_command(name: str, argv: Sequence[str] | None, prog: str | None = None) -> None:
    """Read the command line of a command and run it.

    Args:
        name: One of COMMANDS.
        argv: Its settings; None is the command line of the process.
        prog: What the user has typed to start the command; None is the name of the script.
    """
    command = COMMANDS[name]
    config: Any
    config, parser = parse(command.config_class, argv, command.positional, prog)
    try:
        with each_warning_once():
            command.run(config, str(parser.prog))
    except UserError as error:
        parser.error(str(error))
    except (PublishError, RunError) as error:
        end(str(parser.prog), 1, f"error: {error}")
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        place = error.filename or "a file"
        end(str(parser.prog), 1, f"error: {place} cannot be written or read: {error.strerror}")


def _train(config: TrainCommandConfig, prog: str) -> None:
    # Libraries are imported late, so that --help and mistakes answer at once.
    from accelerate import PartialState

    from ddpm_cars.runs.run_folder import RunFolder
    from ddpm_cars.training.trainer import train

    hub_model_id = config.hub_model_id or Path(config.output_dir).resolve().name
    if config.push_to_hub:
        _check_access(hub_model_id)
    try:
        folder = train(config)
    except FloatingPointError as error:
        end(prog, 1, f"error: {error}")
    except RunStopped as stop:
        # The exit code is what a shell reports of a process that a signal has ended.
        end(prog, 128 + stop.signum, str(stop))
    except KeyboardInterrupt:
        end(prog, 130, "interrupted; the same command continues")
    if not config.dry_run:
        run = RunFolder(folder)
        PartialState().print(f"model: {folder}\nsamples: {run.samples}\nloss: {run.loss_plot}")
    if config.push_to_hub and not config.dry_run and PartialState().is_main_process:
        _push(PushConfig(folder=str(folder), repo_id=hub_model_id, private=config.hub_private_repo), "ddpm-cars push")


def _check_access(repo_id: str) -> None:
    from ddpm_cars.publishing.hub import check_access

    # Every process has the same token; one question is enough.
    if is_main_process() and (problem := check_access(repo_id)):
        warn(f"{problem}; the model will be pushed when it is trained")


def _push(config: PushConfig, prog: str) -> None:
    from ddpm_cars.publishing.files import collect, describe
    from ddpm_cars.publishing.hub import push
    from ddpm_cars.runs.model_folder import open_model_folder

    if config.dry_run:
        folder = open_model_folder(config.folder)
        print(describe(collect(config, folder, config.repo_id)))
        _warn_of_stale(folder.stale_metrics)
        return
    published = push(config)
    _warn_of_stale(published.stale_metrics)
    if published.kept_card:
        command = f"{prog} {config.folder} {config.repo_id} --overwrite_card"
        warn(f"the card on the Hub has been edited there and was kept; {command} replaces it")
    print(f"published: {published.url}" if published.is_new else f"nothing has changed: {published.url}")


def _warn_of_stale(metrics: Path | None) -> None:
    if metrics is not None:
        warn(f"{metrics} was measured with other weights or another calibration and is left out; evaluate again")


def _sample(config: SampleConfig, prog: str) -> None:
    from ddpm_cars.sampling.sample import sample

    try:
        lines = sample(config)
    except KeyboardInterrupt:
        without = " without --overwrite_output_dir" if config.overwrite_output_dir else ""
        end(prog, 130, f"interrupted; the same command{without} continues with the images that are missing")
    for line in lines:
        print(line)


def _calibrate(config: CalibrateConfig, prog: str) -> None:
    from ddpm_cars.sampling.calibrate import calibrate_folder

    print(calibrate_folder(config))


def _evaluate(config: EvaluateConfig, prog: str) -> None:
    from accelerate import PartialState

    from ddpm_cars.evaluation.evaluate import evaluate

    try:
        page, summary = evaluate(config)
    except KeyboardInterrupt:
        end(prog, 130, "interrupted; the same command continues with what is not measured yet")
    PartialState().print(f"{summary}\nreport: {page}")


def _show(config: ShowConfig, prog: str) -> None:
    for line in show_images(config):
        print(line)


def _draw_toy_cars(config: ToyCarsConfig, prog: str) -> None:
    from ddpm_cars.toy_cars.dataset import write_toy_cars

    try:
        folder = write_toy_cars(
            config.output_dir, config.num_train_images, config.num_test_images, config.resolution, config.seed
        )
    except (ValueError, FileExistsError) as error:
        raise UserError(str(error)) from error
    print(f"toy cars: {folder}")


def _demo(config: DemoConfig, prog: str) -> None:
    try:
        from ddpm_cars.demo.app import build_app, launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("the page needs gradio: pip install 'ddpm-cars[demo]'") from error
    from accelerate import PartialState

    from ddpm_cars import pretrained
    from ddpm_cars.runs.load import load_pipeline
    from ddpm_cars.sampling.generate import move_for_inference

    path = config.pretrained_model_name_or_path
    if path is None:
        name, path = "Toy cars", str(pretrained())
    else:
        name = Path(path).resolve().name if Path(path).is_dir() else path
    pipeline = load_pipeline(path)
    move_for_inference(pipeline, PartialState().device)
    app = build_app(pipeline, name, config.max_images)
    try:
        launch(app, server_name=config.server_name, server_port=config.server_port, share=config.share)
    except OSError as error:
        raise UserError(
            f"the page cannot be served at {config.server_name}, port {config.server_port}; give another "
            "--server_port, or leave it out"
        ) from error


COMMANDS = {
    "train": Command(TrainCommandConfig, _train, "train"),
    "sample": Command(SampleConfig, _sample, "sample"),
    "show": Command(ShowConfig, _show, "show"),
    "calibrate": Command(CalibrateConfig, _calibrate, "calibrate"),
    "evaluate": Command(EvaluateConfig, _evaluate, "evaluate"),
    "push": Command(PushConfig, _push, "push_to_hub", positional=True),
    "demo": Command(DemoConfig, _demo, "demo"),
    "toy-cars": Command(ToyCarsConfig, _draw_toy_cars, "draw_toy_cars"),
}
"""The commands of `ddpm-cars` by name."""


def train(argv: Sequence[str] | None = None) -> None:
    """Train a model: `ddpm-cars train`."""
    run_command("train", argv)


def sample(argv: Sequence[str] | None = None) -> None:
    """Sample images from a saved model: `ddpm-cars sample`."""
    run_command("sample", argv)


def show(argv: Sequence[str] | None = None) -> None:
    """Show images as training would see them: `ddpm-cars show`."""
    run_command("show", argv)


def calibrate(argv: Sequence[str] | None = None) -> None:
    """Measure a saved model on its training images: `ddpm-cars calibrate`."""
    run_command("calibrate", argv)


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Measure how good a saved model is: `ddpm-cars evaluate`."""
    run_command("evaluate", argv)


def push_to_hub(argv: Sequence[str] | None = None) -> None:
    """Publish a model on the Hub: `ddpm-cars push`."""
    run_command("push", argv)


def demo(argv: Sequence[str] | None = None) -> None:
    """Serve a page that samples from a model: `ddpm-cars demo`."""
    run_command("demo", argv)


def draw_toy_cars(argv: Sequence[str] | None = None) -> None:
    """Draw a data set of toy cars: `ddpm-cars toy-cars`."""
    run_command("toy-cars", argv)
