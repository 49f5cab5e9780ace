"""What is put into the package: weights in half precision, and what the run says of itself."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import ddpm_cars
from ddpm_cars import DDPMCarsPipeline
from studies import embed_pretrained


def test_weights_are_rounded_to_half_precision_and_load_again(tmp_path: Path):
    run = tmp_path / "run"
    pipeline = DDPMCarsPipeline.from_pretrained(ddpm_cars.pretrained())
    pipeline.save_pretrained(run)
    for name in ("config.yaml", "training.json", "samples.png"):
        (run / name).write_bytes((ddpm_cars.pretrained() / name).read_bytes())
    embed_pretrained.halve(run, tmp_path / "half")
    exact, rounded = (load_file(f / "unet/diffusion_pytorch_model.safetensors") for f in (run, tmp_path / "half"))
    assert {array.dtype for array in rounded.values()} == {np.dtype(np.float16)}
    assert all(np.array_equal(rounded[name], array.astype(np.float16)) for name, array in exact.items())
    assert (tmp_path / "half/training.json").read_bytes() == (run / "training.json").read_bytes()
    assert DDPMCarsPipeline.from_pretrained(tmp_path / "half").unet.num_parameters() == pipeline.unet.num_parameters()
