"""What a saved pipeline consists of, and that it loads: with the package, without it, and with the code it carries."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

import ddpm_cars
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, pipeline_ddpm_cars, scheduling_ddpm_cars
from ddpm_cars.pipeline_ddpm_cars import one_file_source

GOLDEN = Path(__file__).parents[1] / "golden"
FORMATS = ["own_classes", "stock_classes"]
BETAS = {"num_train_timesteps": 20, "beta_start": 0.01, "beta_end": 0.5}
WITHOUT_THE_PACKAGE = """
import json, logging, sys
import numpy as np
import torch

sys.modules["ddpm_cars"] = None  # an import of it fails
from diffusers import DiffusionPipeline
from diffusers.utils import logging as of_diffusers

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
of_diffusers.get_logger("diffusers").addHandler(handler)
of_diffusers.disable_progress_bar()
folder, kwargs = sys.argv[1], json.loads(sys.argv[2])
pipe = DiffusionPipeline.from_pretrained(folder, **kwargs)
pipe.set_progress_bar_config(disable=True)
images = pipe(2, torch.Generator().manual_seed(0), num_inference_steps=int(sys.argv[3]), output_type="np").images
if len(sys.argv) > 4:
    pipe.save_pretrained(sys.argv[4])
names = [type(x).__name__ for x in (pipe, pipe.scheduler)]
variance = pipe.scheduler.config.variance_type
print(json.dumps({"names": names, "variance": variance, "images": images.tolist(), "said": said}))
"""


def load_elsewhere(folder: Path, num_inference_steps: int = 20, save_to: Path | None = None, **kwargs) -> dict:
    """Load a folder and draw two images in a process that cannot import the package."""
    arguments = [str(folder), json.dumps(kwargs), str(num_inference_steps), *([] if save_to is None else [save_to])]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_THE_PACKAGE, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def draw(pipe: DiffusionPipeline, num_inference_steps: int = 20) -> np.ndarray:
    return pipe(2, torch.Generator().manual_seed(0), num_inference_steps=num_inference_steps, output_type="np").images


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def calibrated(unet: UNet2DModel, images: torch.Tensor) -> DDPMCarsScheduler:
    scheduler = DDPMCarsScheduler(**BETAS)
    ddpm_cars.calibrate(unet, images, scheduler, num_timesteps=5, num_images=16, num_bands=2)
    return DDPMCarsScheduler.from_config(scheduler.config, variance_type="analytic", max_last_noise_grey_levels=3.0)


@pytest.fixture(scope="module")
def pipe(unet: UNet2DModel, calibrated: DDPMCarsScheduler) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(unet, calibrated)


@pytest.fixture(scope="module")
def saved(pipe: DDPMCarsPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder


def test_the_package_gets_its_scheduler_back(pipe: DDPMCarsPipeline, saved: Path):
    loaded = DDPMCarsPipeline.from_pretrained(saved)
    assert type(loaded.scheduler) is DDPMCarsScheduler
    assert loaded.scheduler.config.variance_type == "analytic"
    assert loaded.scheduler.config.max_last_noise_grey_levels == 3.0
    assert loaded.scheduler.to_json_string() == pipe.scheduler.to_json_string()
    assert '"DDPMCarsScheduler"' in repr(loaded)
    np.testing.assert_allclose(draw(loaded), draw(pipe), rtol=0, atol=1e-6)


def test_diffusers_alone_loads_stock_classes(saved: Path, unet: UNet2DModel):
    got = load_elsewhere(saved)
    assert got["names"] == ["DDPMPipeline", "DDPMScheduler"]
    assert got["variance"] == "fixed_small"
    assert got["said"] == []
    expected = draw(DDPMCarsPipeline(unet, DDPMCarsScheduler(**BETAS)))
    np.testing.assert_allclose(got["images"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_a_variance_that_stock_has_gives_the_same_images_there(unet: UNet2DModel, tmp_path: Path, variance_type: str):
    pipe = DDPMCarsPipeline(unet, DDPMCarsScheduler(**BETAS, variance_type=variance_type))
    pipe.save_pretrained(tmp_path)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock) is DDPMPipeline
    assert stock.scheduler.config.variance_type == variance_type
    np.testing.assert_allclose(draw(stock), draw(pipe), rtol=0, atol=1e-5)


def test_the_code_in_the_folder_draws_with_our_scheduler(pipe: DDPMCarsPipeline, saved: Path, tmp_path: Path):
    got = load_elsewhere(saved, save_to=tmp_path / "again", custom_pipeline=str(saved), trust_remote_code=True)
    assert got["names"] == ["DDPMCarsPipeline", "DDPMCarsScheduler"]
    assert got["variance"] == "analytic"
    expected = draw(pipe)
    np.testing.assert_allclose(got["images"], expected, rtol=0, atol=1e-5)
    # What it saves loads in all three ways again.
    again = DDPMCarsPipeline.from_pretrained(tmp_path / "again")
    assert type(again.scheduler) is DDPMCarsScheduler
    np.testing.assert_allclose(draw(again), expected, rtol=0, atol=1e-5)
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "again")) is DDPMPipeline
    assert (tmp_path / "again" / "pipeline.py").read_bytes() == (saved / "pipeline.py").read_bytes()


def test_what_stock_saves_gives_our_scheduler_back(saved: Path, tmp_path: Path, pipe: DDPMCarsPipeline):
    DiffusionPipeline.from_pretrained(saved).save_pretrained(tmp_path)
    loaded = DDPMCarsPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is DDPMCarsScheduler
    np.testing.assert_allclose(draw(loaded), draw(pipe), rtol=0, atol=1e-6)


def test_our_scheduler_comes_back_from_other_classes(saved: Path):
    other = DDIMScheduler.from_pretrained(saved, subfolder="scheduler")
    assert DDPMCarsScheduler.from_config(other.config).config.variance_type == "analytic"
    # A variance that was chosen for stock was meant.
    stock = DDPMScheduler.from_pretrained(saved, subfolder="scheduler", variance_type="fixed_large")
    assert DDPMCarsScheduler.from_config(stock.config).config.variance_type == "fixed_large"
    spectral = DDPMCarsScheduler.from_pretrained(saved, subfolder="scheduler", variance_type="spectral")
    assert spectral.config.variance_type == "spectral"


def test_other_schedulers_are_left_as_they_are(saved: Path, unet: UNet2DModel):
    ddim = DDIMScheduler.from_pretrained(saved, subfolder="scheduler")
    pipe = DDPMCarsPipeline(unet, ddim)
    assert pipe.scheduler is ddim
    stock = DDPMScheduler.from_pretrained(saved, subfolder="scheduler")
    pipe.scheduler = stock
    assert pipe.scheduler is stock


@pytest.mark.parametrize(
    "saved_class", ["missing.module.DDPMCars", "os.path.PathLike", "json.JSONDecoder", "ddpm_cars.nothing"]
)
def test_a_file_cannot_make_the_pipeline_build_just_anything(unet: UNet2DModel, saved_class: str):
    scheduler = DDPMScheduler()
    scheduler.register_to_config(_ddpm_cars={"class": saved_class})
    assert DDPMCarsPipeline(unet, scheduler).scheduler is scheduler
    assert "missing" not in sys.modules


def test_another_sampler_is_saved_under_its_own_name(unet: UNet2DModel, tmp_path: Path):
    DDPMCarsPipeline(unet, DDIMScheduler(**BETAS)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert type(DDPMCarsPipeline.from_pretrained(tmp_path).scheduler) is DDIMScheduler


def defined_names(module_file: str) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(Path(module_file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def imported_names(module_file: str) -> dict[str, str]:
    tree = ast.parse(Path(module_file).read_text(encoding="utf-8"))
    pairs = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                pairs[alias.asname or alias.name] = f"{getattr(node, 'module', '')}.{alias.name}"
    return pairs


def test_the_two_files_can_be_one():
    files = [scheduling_ddpm_cars.__file__, pipeline_ddpm_cars.__file__]
    assert one_file_source() == "\n\n".join(Path(file).read_text(encoding="utf-8") for file in files)
    first, second = map(defined_names, files)
    assert "DDPMCarsScheduler" in first
    assert "DDPMCarsPipeline" in second
    # A logger by the name of the module is the same line in both.
    assert first & second == {"logger"}
    imports = [imported_names(file) for file in files]
    assert not (first | second) & (imports[0].keys() | imports[1].keys())
    shared = imports[0].keys() & imports[1].keys()
    assert {name: imports[0][name] for name in shared} == {name: imports[1][name] for name in shared}


@pytest.mark.parametrize("name", FORMATS)
def test_folders_of_every_format_load(name: str):
    expected = np.array(json.loads((GOLDEN / name / "images.json").read_text())).reshape(1, 3, 8, 8)
    loaded = DDPMCarsPipeline.from_pretrained(GOLDEN / name)
    assert type(loaded.scheduler) is DDPMCarsScheduler
    assert loaded.scheduler.config.variance_type == "analytic"
    assert loaded.scheduler.config.max_last_noise_grey_levels == 2.0
    got = loaded(generator=torch.Generator().manual_seed(0), output_type="raw").images
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-4)


def test_the_oldest_code_in_a_folder_still_runs(tmp_path: Path):
    # Through a copy: diffusers keeps the code of local folders under one name.
    folder = shutil.copytree(GOLDEN / "stock_classes", tmp_path / "old")
    got = load_elsewhere(folder, 30, custom_pipeline=str(folder), trust_remote_code=True)
    assert got["names"] == ["DDPMCarsPipeline", "DDPMCarsScheduler"]
    assert got["variance"] == "analytic"
    np.testing.assert_allclose(got["images"], draw(DDPMCarsPipeline.from_pretrained(folder), 30), rtol=0, atol=1e-4)
