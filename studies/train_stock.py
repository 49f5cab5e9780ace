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
from diffusers import DDPMPipeline
from tqdm import tqdm

from benchmarks.stock_loops import StockTraining
from ddpm_cars.cli.parser import parse
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.files import write_text


def main() -> None:
    """Train for --max_train_steps and save."""
    config, parser = parse(TrainingConfig, prog="python -m studies.train_stock")
    if config.max_train_steps is None:
        parser.error("max_train_steps is unset; say how many steps to train")
    stock, folder = StockTraining(config), RunFolder(Path(config.output_dir))
    history, losses, since = [], [], time.perf_counter()
    # Of a loader every iteration is another epoch in another order.
    batches = itertools.chain.from_iterable(itertools.repeat(stock.loader))
    for step in tqdm(range(1, config.max_train_steps + 1), desc="training", unit="step"):
        losses.append(stock.step(next(batches)["input"]))
        if step % config.logging_steps == 0 or step == config.max_train_steps:
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
