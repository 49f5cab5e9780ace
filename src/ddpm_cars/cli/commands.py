"""The commands: each one's settings, what it runs and how it ends."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from ddpm_cars.cli.endings import DISK_ERRORS, INTERRUPTED, end, ended_in_one_line, import_libraries
from ddpm_cars.cli.parser import Parser
from ddpm_cars.cli.places import check_places
from ddpm_cars.config.commands import (
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    PushConfig,
    SampleConfig,
    ShowConfig,
    ToyCarsConfig,
)
from ddpm_cars.config.fields import AUTO
from ddpm_cars.config.training import NoiseConfig, TrainCommandConfig
from ddpm_cars.errors import PublishError, RunError, RunStopped, UserError, missing_packages
from ddpm_cars.runtime import launcher
from ddpm_cars.runtime.console import each_warning_once, is_main_process, note, warn, words_end_no_work
from ddpm_cars.runtime.threads import bound_spinning


@dataclass(frozen=True)
class Command:
    """A command of `ddpm-cars`, called with a command line. `run` has the name of its script in a checkout."""

    config_class: type[Any]
    module: str  # The module that does the work, whose libraries take seconds to import.
    run: Callable[[Any, str], None]  # It is given the settings, and what the user has typed to start the command.
    positional: bool = False  # Whether settings without a default are given by position.
    is_shared: bool = False  # Whether several processes can share the work.

    @property
    def sentence(self) -> str:
        """What the command does."""
        return str(self.config_class.__doc__).partition("\n")[0]

    def __call__(self, argv: Sequence[str] | None = None, prog: str | None = None) -> None:
        """Read the settings and run the command; a mistake of the user ends the process with one line.

        Args:
            argv: The settings as flags; None is the command line of the process.
            prog: What the user has typed to start the command; None is the name of the script.
        """
        with ended_in_one_line(Path(sys.argv[0]).name if prog is None else prog):
            bound_spinning()
            parser = Parser(self.config_class, self.positional, prog)
            config = parser.parse(argv)
            if not self.is_shared and launcher.num_launched() > 1:
                if not is_main_process():
                    return
                note(f"{parser.prog} is the work of one process, so the other processes that were launched have ended")
                launcher.leave()
            with words_end_no_work():
                self._run(config, parser)

    def _run(self, config: Any, parser: Parser) -> None:
        try:
            check_places(config)
            import_libraries(parser.prog, self.module)
            with each_warning_once():
                self.run(config, parser.prog)
        except UserError as error:
            parser.error(str(error))
        except (PublishError, RunError) as error:
            end(parser.prog, 1, f"error: {error}")
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            place = error.filename or "a file"
            end(parser.prog, 1, f"error: {place} cannot be written or read: {error.strerror}")


# Libraries are imported in the commands, so that --help and mistakes answer at once.
@partial(Command, TrainCommandConfig, "ddpm_cars.training.trainer", is_shared=True)
def train(config: TrainCommandConfig, prog: str) -> None:
    """Train a model: `ddpm-cars train`."""
    from accelerate import PartialState

    from ddpm_cars.runs.run_folder import RunFolder
    from ddpm_cars.training.trainer import train

    hub_model_id = config.hub_model_id or Path(config.output_dir).resolve().name
    # Every process has the same token; one question is enough.
    if config.push_to_hub and is_main_process():
        from ddpm_cars.publishing.hub import check_access

        if problem := check_access(hub_model_id, config.hub_private_repo):
            warn(f"{problem}; the model will be pushed when it is trained")
    try:
        folder = train(config)
    except FloatingPointError as error:
        end(prog, 1, f"error: {error}")
    except RunStopped as stop:
        # The exit code is what a shell reports of a process that a signal has ended.
        end(prog, 128 + stop.signum, str(stop))
    except KeyboardInterrupt:
        end(prog, INTERRUPTED, "interrupted; the same command continues")
    if config.dry_run:
        return
    run = RunFolder(folder)
    written = {"samples": run.samples, "denoising": run.denoising, "loss": run.loss_plot}
    # A run that an earlier version has completed has no strip.
    lines = [f"model: {folder}", *(f"{name}: {path}" for name, path in written.items() if path.exists())]
    PartialState().print("\n".join(lines))
    if config.push_to_hub and PartialState().is_main_process:
        push_config = PushConfig(folder=str(folder), repo_id=hub_model_id, private=config.hub_private_repo)
        push_to_hub.run(push_config, "ddpm-cars push")


@partial(Command, SampleConfig, "ddpm_cars.sampling.sample", is_shared=True)
def sample(config: SampleConfig, prog: str) -> None:
    """Sample images from a saved model: `ddpm-cars sample`."""
    from ddpm_cars.sampling.sample import sample

    try:
        lines = sample(config)
    except KeyboardInterrupt:
        without = " without --overwrite_output_dir" if config.overwrite_output_dir else ""
        end(prog, INTERRUPTED, f"interrupted; the same command{without} continues with the images that are missing")
    for line in lines:
        print(line)


@partial(Command, ShowConfig, "ddpm_cars.sampling.generate")
def show(config: ShowConfig, prog: str) -> None:
    """Show images as training would see them: `ddpm-cars show`."""
    from ddpm_cars.data.pictures import load_pictures, to_samples
    from ddpm_cars.diffusion.seeds import permutation
    from ddpm_cars.figures.grids import make_grid, save_png, to_pil
    from ddpm_cars.sampling.generate import forward_noising_strip
    from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

    images = load_pictures(config).images
    samples = to_samples(images[permutation(len(images), config.seed)[: config.num_images]])
    scheduler = DDPMCarsScheduler(**{field.name: getattr(config, field.name) for field in fields(NoiseConfig)})
    folder = Path(config.output_dir)
    grid = save_png(make_grid(to_pil(samples)), folder / "dataset.png")
    strip = save_png(forward_noising_strip(samples[:4], scheduler, seed=config.seed), folder / "noising.png")
    print(f"{len(images)} images: {grid}\nnoising: {strip}")


@partial(Command, CalibrateConfig, "ddpm_cars.sampling.calibrate")
def calibrate(config: CalibrateConfig, prog: str) -> None:
    """Measure a saved model on its training images: `ddpm-cars calibrate`."""
    from ddpm_cars.sampling.calibrate import calibrate_folder

    print(calibrate_folder(config))


@partial(Command, EvaluateConfig, "ddpm_cars.evaluation.evaluate", is_shared=True)
def evaluate(config: EvaluateConfig, prog: str) -> None:
    """Measure how good a saved model is: `ddpm-cars evaluate`."""
    from accelerate import PartialState

    from ddpm_cars.evaluation.evaluate import evaluate

    try:
        page, summary = evaluate(config)
    except KeyboardInterrupt:
        end(prog, INTERRUPTED, "interrupted; the same command continues with what is not measured yet")
    PartialState().print(f"{summary}\nreport: {page}")


@partial(Command, PushConfig, "ddpm_cars.publishing.hub", positional=True)
def push_to_hub(config: PushConfig, prog: str) -> None:
    """Publish a model on the Hub: `ddpm-cars push`."""
    from ddpm_cars.publishing.files import collect, describe
    from ddpm_cars.publishing.hub import push
    from ddpm_cars.runs.saved_pipeline import open_model_folder

    if config.dry_run:
        folder = open_model_folder(config.folder, config.weights, config.variant)
        print(describe(collect(config, folder, config.repo_id)))
        kind = f"{'private' if config.private else 'public'} {'Space' if config.space else 'model'}"
        licence = config.model_license or (folder.settings or {}).get("model_license")
        named = f"under the licence {licence}" if licence else "without a licence; --model_license names one"
        print(f"to {config.repo_id}, a {kind} if it is new, {named}")
        _say_figures(config, folder.metrics_path, folder.stale_metrics)
        return
    published = push(config)
    _say_figures(config, published.metrics_path, published.stale_metrics)
    if published.is_private and not config.private:
        note(f"{config.repo_id} is private on the Hub, and stays so")
    if published.kept_card:
        command = f"{prog} {config.folder} {config.repo_id} --overwrite_card"
        warn(f"the card on the Hub has been edited there and was kept; {command} replaces it")
    print(f"published: {published.url}" if published.is_new else f"nothing has changed: {published.url}")


def _say_figures(config: PushConfig, metrics_path: Path | None, stale_metrics: Path | None) -> None:
    """Say which evaluation a card shows, and which is left out."""
    if metrics_path is not None and not config.space:
        note(f"the figures of the card are those of {metrics_path}")
    if stale_metrics is not None and not config.space:
        warn(
            f"{stale_metrics} is unfinished, or was measured with other weights or another calibration, and is left "
            "out; evaluate again"
        )


@partial(Command, DemoConfig, "ddpm_cars.demo.app")
def demo(config: DemoConfig, prog: str) -> None:
    """Serve a page that samples from a model: `ddpm-cars demo`."""
    try:
        from ddpm_cars.demo.app import build_app
        from ddpm_cars.demo.serving import check_address, launch, place_model
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise missing_packages("the page", "gradio") from error

    from ddpm_cars import pretrained
    from ddpm_cars.runs.loading import label_of, load_pipeline, with_model

    check_address(config.server_name, config.server_port)
    path = config.pretrained_model_name_or_path
    if path is None:
        path, name, pipeline = str(pretrained()), "Toy cars", load_pipeline(str(pretrained()))
    else:
        path, pipeline, name = with_model(
            path,
            lambda found: (
                found,
                load_pipeline(found, **config.loading()),
                label_of(found, config.weights, config.variant),
            ),
        )
    place_model(pipeline, None if config.mixed_precision == AUTO else config.mixed_precision)
    app = build_app(pipeline, name, config.max_images, path if Path(path).is_dir() else None)
    try:
        launch(app, server_name=config.server_name, server_port=config.server_port, share=config.share)
    except OSError as error:
        raise UserError(f"the page cannot be served: {error}") from error


@partial(Command, ToyCarsConfig, "ddpm_cars.toy_cars.dataset")
def draw_toy_cars(config: ToyCarsConfig, prog: str) -> None:
    """Draw a data set of toy cars: `ddpm-cars toy-cars`."""
    from ddpm_cars.toy_cars.dataset import write_toy_cars

    try:
        folder = write_toy_cars(
            config.output_dir, config.num_train_images, config.num_test_images, config.resolution, config.seed
        )
    except (ValueError, FileExistsError) as error:
        raise UserError(str(error)) from error
    print(f"toy cars: {folder}")


COMMANDS = {
    "train": train,
    "sample": sample,
    "show": show,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "push": push_to_hub,
    "demo": demo,
    "toy-cars": draw_toy_cars,
}
"""The commands of `ddpm-cars` by name."""
