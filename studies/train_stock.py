"""Train with the loop of diffusers' example instead of ours; the flags are those of `ddpm-cars train`.

    python -m studies.train_stock --train_data_dir DIR --max_train_steps 1000 --output_dir DIR

It leaves in --output_dir a stock `DDPMPipeline`, of the averaged weights with --use_ema, its loss and its settings.
"""

import itertools
import json
import time
from dataclasses import asdict
from pathlib import Path

import yaml
from accelerate import PartialState
from diffusers import DDPMPipeline
from tqdm import tqdm

from benchmarks.stock_loops import StockTraining
from ddpm_cars.cli.parser import Parser
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.files import write_text
from ddpm_cars.training.choices import choose_for_device, choose_for_length


def main() -> None:
    """Train for --max_train_steps and save."""
    parser = Parser(TrainingConfig, prog="python -m studies.train_stock")
    config = parser.parse()
    num_steps = config.max_train_steps
    if num_steps is None:
        parser.error("max_train_steps is unset; say how many steps to train")
    device = PartialState().device
    config = choose_for_length(choose_for_device(config, device), device, num_images=None)
    stock, folder = StockTraining(config), RunFolder(Path(config.output_dir))
    history, losses, since = [], [], time.perf_counter()
    # Of a loader every iteration is another epoch in another order.
    batches = itertools.chain.from_iterable(itertools.repeat(stock.loader))
    for step in tqdm(range(1, num_steps + 1), desc="training", unit="step"):
        losses.append(stock.step(next(batches)["input"]))
        if step % config.logging_steps == 0 or step == num_steps:
            speed = len(losses) * config.train_batch_size / (time.perf_counter() - since)
            history.append({"step": step, "loss": sum(losses) / len(losses), "images_per_second": round(speed, 2)})
            losses, since = [], time.perf_counter()
    unet = stock.accelerator.unwrap_model(stock.model)
    if stock.average is not None:
        stock.average.copy_to(unet.parameters())
    DDPMPipeline(unet, stock.noise_scheduler).save_pretrained(folder.path)
    write_text(folder.loss, json.dumps(history, indent=1))
    write_text(folder.settings, yaml.safe_dump(asdict(config), sort_keys=False))


if __name__ == "__main__":
    main()
