"""Time training from a folder of JPEGs: diffusers' documented loop and ours on the same network.

Images a second are measured alternately, an epoch of one loop after an epoch of the other. Both have the settings of
diffusers' example: AdamW with betas 0.95 and 0.999, a cosine after 500 steps, clipping to 1, and an average of the
weights. The suite also shows how far the same steps lead apart when they are computed in two ways.
"""

import argparse
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.utils import is_compiled_module
from diffusers import UNet2DModel
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.measure import SEED, Apart, Rows, alternate, default_device, ratio, seconds_of, spread
from benchmarks.stock_loops import StockTraining, peer_step
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import load_pictures
from ddpm_cars.networks.unet import PRESETS, create_unet
from ddpm_cars.runtime.hardware import device_name
from ddpm_cars.toy_cars.painting import draw_car
from ddpm_cars.training.trainer import Trainer

NUM_REPEATS = 5
# So many that the learning rate, a cosine, is that of the middle of a run.
_TOTAL_STEPS = 100_000
_NUM_PROFILED = 12
_PEAK_TFLOPS = {"H100 80GB HBM3": 989.0, "H200": 989.0, "A100": 312.0}


def known_peak_tflops() -> float | None:
    """Return the dense bfloat16 peak of the GPU, from its maker's data sheet, where it is a known one."""
    device = default_device()
    name = device_name(device) if device.type == "cuda" else ""
    return next((peak for known, peak in _PEAK_TFLOPS.items() if known in name), None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this suite."""
    on_gpu = default_device().type == "cuda"
    parser.add_argument(
        "--train_data_dir", help="folder of images, of which the split train is read; default: drawn cars"
    )
    parser.add_argument("--num_images", type=int, default=256, help="JPEGs to draw, if no folder is given")
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="peer64" if on_gpu else "tiny", help="preset of the network"
    )
    parser.add_argument("--resolution", type=int, default=64 if on_gpu else 32, help="height and width")
    parser.add_argument("--train_batch_size", type=int, default=16, help="images a step")
    parser.add_argument(
        "--mixed_precision",
        choices=["no", "fp16", "bf16"],
        default="bf16" if on_gpu else "no",
        help="precision of both loops",
    )
    parser.add_argument(
        "--use_ema", action=argparse.BooleanOptionalAction, default=True, help="average the weights in both loops"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=on_gpu, help="train ours with --compile"
    )
    parser.add_argument("--num_compared_steps", type=int, default=30, help="steps before held-out losses are compared")
    parser.add_argument(
        "--peak_tflops",
        type=float,
        default=known_peak_tflops(),
        help="dense 16-bit peak of the device, for the model FLOP utilisation",
    )


def write_jpegs(folder: Path, num_images: int) -> None:
    """Write cars of 500x375 pixels to folder/train."""
    (folder / "train").mkdir(parents=True)
    for i in tqdm(range(num_images), desc="drawing", unit="image"):
        image = draw_car(i, 96, 128).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / "train" / f"{i:05}.jpg", quality=90)


def make_config(arguments: argparse.Namespace, folder: Path) -> TrainingConfig:
    """Return the settings of both loops, which write into `folder`."""
    return TrainingConfig(
        train_data_dir=arguments.train_data_dir or str(folder / "cars"),
        split="train",
        cache_dir=str(folder / "cache"),
        output_dir=str(folder / "run"),
        resize="crop",
        resolution=arguments.resolution,
        preset=arguments.preset,
        train_batch_size=arguments.train_batch_size,
        max_train_steps=_TOTAL_STEPS,
        learning_rate=1e-4,
        lr_scheduler="cosine",
        lr_warmup_steps=500,
        max_grad_norm=1.0,
        ema_half_life_steps=(7000,),
        adam_beta1=0.95,
        adam_weight_decay=1e-6,
        mixed_precision=arguments.mixed_precision,
        use_ema=arguments.use_ema,
        compile=arguments.compile,
        seed=SEED,
    )


@contextmanager
def open_trainer(config: TrainingConfig) -> Iterator[Trainer]:
    """Make a run whose steps are taken by hand, and close it afterwards."""
    with redirect_stderr(io.StringIO()):
        trainer = Trainer(config)
    try:
        trainer.state.model.train()
        yield trainer
    finally:
        trainer.close()


def our_epoch(trainer: Trainer, num_steps: int) -> None:
    """Do what `Trainer.run` does for some steps and one record of its log."""
    with tqdm(total=num_steps, file=io.StringIO()) as bar:
        for _ in range(num_steps):
            trainer.train_step()
            bar.update()
        # The record's own speed is not of interest.
        trainer.log(1.0, num_steps)


def forward_flops(unet: UNet2DModel) -> int:
    """Return the floating-point operations, two for a multiply-add, of a forward pass of one image."""
    size = unet.config.sample_size
    x_t = torch.zeros(1, unet.config.in_channels, size, size, device=unet.device)
    # Of the ways to compute attention, only this one is counted on every device.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(x_t, torch.zeros(1, device=unet.device))
    return counter.get_total_flops()


def loops(stock: Apart, trainer: Trainer, num_repeats: int) -> tuple[dict[str, list[float]], list[str]]:
    """Return the images a second of every loop, and notes on them."""
    config, device, notes = trainer.config, trainer.prepared.device, []
    num_images, batch_size = stock.call("count"), config.train_batch_size
    num_steps = max(1, num_images // batch_size)
    # A CPU needs seconds for a few; a GPU, which nobody waits for in between, needs more of them.
    num_alone = num_steps if device.type == "cuda" else min(num_steps, 4)
    here = partial(seconds_of, device=device)
    # Each loop has the images that a call takes, and the function that measures the call.
    measured: dict[str, tuple[int, Callable[[], float]]] = {
        "stock, from files": (num_images, partial(stock.seconds, "epoch")),
        "ours, from files": (num_steps * batch_size, partial(here, partial(our_epoch, trainer, num_steps))),
        "stock, the step alone": (
            num_alone * min(batch_size, num_images),
            partial(stock.seconds, "steps", num_alone),
        ),
        "ours, the step alone": (
            num_alone * batch_size,
            partial(here, lambda: [trainer.train_step() for _ in range(num_alone)]),
        ),
    }
    try:
        peer, num_parameters = peer_step(config, trainer.state.unet.num_parameters(), device)
        name = (
            f"denoising-diffusion-pytorch, the step alone of its own Unet of {num_parameters / 1e6:.2f} M parameters"
        )
        measured[name] = (num_alone * batch_size, partial(here, lambda: [peer() for _ in range(num_alone)]))
    # A package that is missing, or that does not fit the others, raises one of these.
    except (ImportError, RuntimeError) as error:
        notes.append(f"denoising-diffusion-pytorch cannot be imported ({error}), so it has no row")

    def images_per_second(number: int, seconds: Callable[[], float]) -> float:
        return number / seconds()

    measures = {name: partial(images_per_second, *pair) for name, pair in measured.items()}
    # Every network and every file is used once before.
    warm_up = [
        partial(stock.call, "fetch_images"),
        *(measure for name, measure in measures.items() if "the step alone" in name),
    ]
    for work in tqdm(warm_up, desc="warming up", unit="loop"):
        work()
    return alternate(measures, num_repeats, "training"), notes


def loop_rows(speeds: dict[str, list[float]], flops: int, peak_tflops: float | None) -> Rows:
    """Return a row for each loop, compared with stock's loop of the same kind."""
    rows = []
    for name, values in speeds.items():
        kind = "the step alone" if "the step alone" in name else "from files"
        row = {"loop": name, "images/s": spread(values, 1), "to stock": ratio(values, speeds[f"stock, {kind}"])}
        # The backward pass has two products where the forward pass has one; another network has other FLOPs.
        if peak_tflops is not None and not name.startswith("denoising"):
            row["model FLOP utilisation"] = spread([3 * flops * v / (peak_tflops * 1e12) for v in values], 4)
        rows.append(row)
    return rows


def decode_rows(stock: Apart, trainer: Trainer, num_repeats: int) -> Rows:
    """Return a row for each way of getting the images of one epoch."""
    config, n = trainer.config, stock.call("count")
    batches_per_epoch = max(1, n // config.train_batch_size)
    fresh = itertools.count()

    def first() -> None:
        with redirect_stderr(io.StringIO()):
            load_pictures(replace(config, cache_dir=f"{config.cache_dir}-{next(fresh)}"))

    def later() -> None:
        for step in range(batches_per_epoch):
            trainer.train_step.draw_batch(step, 0)

    here, num_later = partial(seconds_of, device=trainer.prepared.device), batches_per_epoch * config.train_batch_size
    ways: dict[str, tuple[int, Callable[[], float]]] = {
        "stock, every epoch: one process decodes and transforms": (n, partial(stock.seconds, "fetch_images")),
        "ours, first epoch: decoded by all cores and kept": (n, partial(here, first)),
        "ours, later epochs: drawn from the cache, with noise": (num_later, partial(here, later)),
    }
    seconds = alternate({name: measure for name, (_, measure) in ways.items()}, num_repeats, "images")
    speeds = {name: [ways[name][0] / value for value in values] for name, values in seconds.items()}
    return [
        {
            "images": name,
            "images/s": spread(speeds[name], 1),
            "seconds an epoch": spread(seconds[name], 4),
            "to stock": ratio(speeds[name], speeds[next(iter(ways))]),
        }
        for name in ways
    ]


def profile_rows(trainer: Trainer, num_steps: int = 3) -> Rows:
    """Return the work of the device in a step of ours, longest first, and the time of the step by the clock."""
    on_gpu = trainer.prepared.device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    # The profiler costs time, so the clock is read without it.
    seconds = seconds_of(lambda: [trainer.train_step() for _ in range(num_steps)], trainer.prepared.device)
    with profile(activities=activities, acc_events=True) as watch:
        seconds_of(lambda: [trainer.train_step() for _ in range(num_steps)], trainer.prepared.device)
    spent = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in watch.key_averages()
    ]
    spent.sort(reverse=True)
    named, others = spent[:_NUM_PROFILED], spent[_NUM_PROFILED:]
    named.append((sum(t for t, _, _ in others), sum(n for _, n, _ in others), "everything else"))
    rows: Rows = [{"work": "the step, by the clock", "ms a step": round(1e3 * seconds / num_steps, 3)}]
    rows += [
        {"work": key[:80].replace("|", "/"), "times a step": n / num_steps, "ms a step": round(t / 1e3 / num_steps, 3)}
        for t, n, key in named
    ]
    return rows


def exact_float32() -> AbstractContextManager:
    """Keep convolutions from rounding their factors to TF32, which PyTorch allows for them on GPUs."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def plain_steps(trainer: Trainer, unet: UNet2DModel, num_steps: int) -> None:
    """Train a network on the batches that a run draws, in plain float32."""
    config = trainer.config
    optimizer = torch.optim.AdamW(
        unet.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        foreach=False,
        fused=False,
    )
    betas = torch.linspace(config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0).float().to(trainer.prepared.device)
    unet.train()
    for step in tqdm(range(num_steps), desc="plain float32", unit="step"):
        x_0, eps, t, _ = trainer.train_step.draw_batch(step, 0)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        output = unet(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t).sample
        (output - eps).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0, foreach=False)
        optimizer.step()
        optimizer.zero_grad()


def numeric_rows(config: TrainingConfig, num_steps: int) -> Rows:
    """Return the held-out loss of our steps beside that of a plain loop on the same batches, from the same weights."""
    config = replace(
        config,
        output_dir=f"{config.output_dir}-compared",
        split="train[:90%]",
        validation_split="train[90%:]",
        # A warmup would leave next to nothing to compare.
        lr_scheduler="constant",
    )
    with open_trainer(config) as trainer:
        held_out, device = trainer.prepared.held_out, trainer.prepared.device
        assert held_out is not None
        torch.manual_seed(config.seed)
        unet = create_unet(config.preset, config.resolution).to(device)

        def loss() -> float:
            with exact_float32():
                return held_out.eps_mse(unet.eval(), device, config.train_batch_size)

        before = loss()
        with exact_float32():
            plain_steps(trainer, unet, num_steps)
        plain = loss()
        for _ in tqdm(range(num_steps), desc="ours", unit="step"):
            trainer.train_step()
        # Both are measured in float32 by one network, so that only the training differs.
        unet.load_state_dict(trainer.state.unet.state_dict())
        ours = loss()
    return [
        {
            "steps": num_steps,
            "held-out loss before": round(before, 6),
            "plain float32 loop": round(plain, 6),
            "ours": round(ours, 6),
            "difference in percent": float(f"{100 * (ours / plain - 1):.3g}"),
        }
    ]


def run(arguments: argparse.Namespace) -> dict[str, Rows]:
    """Measure, and return the tables by their titles."""
    with TemporaryDirectory(prefix="benchmark-train-") as name:
        folder = Path(name)
        if arguments.train_data_dir is None:
            write_jpegs(folder / "cars", arguments.num_images)
        config = make_config(arguments, folder)
        stock = Apart(StockTraining, config)
        with open_trainer(config) as trainer, closing(stock):
            num_images = stock.call("count")
            unet, compiled = trainer.state.unet, is_compiled_module(trainer.state.model)
            flops = forward_flops(unet)
            speeds, notes = loops(stock, trainer, arguments.repeats)
            decoding = decode_rows(stock, trainer, arguments.repeats)
            profiled = profile_rows(trainer)
        numerics = numeric_rows(config, arguments.num_compared_steps)
    names = ("preset", "resolution", "train_batch_size", "mixed_precision", "use_ema")
    settings = {name: getattr(arguments, name) for name in names}
    # This is what has happened, which need not be what was asked for.
    settings |= {"ours compiled": compiled, "ours captured": trainer.state.captured}
    settings |= {"parameters": unet.num_parameters(), "GFLOPs forward an image": round(flops / 1e9, 3)}
    results = {
        "settings of all loops": [{**settings, "images": num_images}],
        "training": loop_rows(speeds, flops, arguments.peak_tflops),
        "images of one epoch": decoding,
        "where the time of our step goes": profiled,
        "the same steps in two ways": numerics,
    }
    return results | ({"notes": [{"note": note} for note in notes]} if notes else {})
