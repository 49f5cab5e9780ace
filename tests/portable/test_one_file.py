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
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.portable.one_file import module_sources, one_file_source

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
torch.set_num_threads(1)
folder, kwargs, call = sys.argv[1], *map(json.loads, sys.argv[2:4])
pipe = DiffusionPipeline.from_pretrained(folder, **kwargs)
pipe.set_progress_bar_config(disable=True)
images = pipe(2, torch.Generator().manual_seed(0), output_type="np", **call).images
if len(sys.argv) > 4:
    pipe.save_pretrained(sys.argv[4])
names = [type(x).__name__ for x in (pipe, pipe.scheduler)]
variance = pipe.scheduler.config.variance_type
print(json.dumps({"names": names, "variance": variance, "images": images.tolist(), "said": said}))
"""


def load_elsewhere(folder: Path, save_to: Path | None = None, call: dict | None = None, **kwargs) -> dict:
    """Load a folder and draw two images in a process that cannot import the package."""
    call = {"num_inference_steps": 20, **(call or {})}
    arguments = [str(folder), json.dumps(kwargs), json.dumps(call), *([] if save_to is None else [save_to])]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_THE_PACKAGE, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def draw(pipe: DiffusionPipeline, **call) -> np.ndarray:
    call = {"num_inference_steps": 20, **call}
    return pipe(2, torch.Generator().manual_seed(0), output_type="np", **call).images


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
    np.testing.assert_array_equal(np.float32(got["images"]), expected)
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


def test_everything_that_a_model_may_need_is_in_the_one_file(make_unet, images: torch.Tensor, tmp_path: Path):
    unet = make_unet(num_class_embeds=3, out_channels=6)
    scheduler = DDPMCarsScheduler(**BETAS)
    labels = torch.arange(16) % 2
    ddpm_cars.calibrate(
        unet, images, scheduler, num_timesteps=5, num_images=16, num_bands=2, batch_size=4, class_labels=labels
    )
    ddpm_cars.fit_init_noise(images, scheduler)
    pipe = DDPMCarsPipeline(
        unet, DDPMCarsScheduler.from_config(scheduler.config, variance_type="spectral"), {0: "cars", 1: "vans"}
    )
    pipe.save_pretrained(tmp_path / "model")
    call = {"class_labels": ["vans", 0], "guidance_scale": 2.0, "num_inference_steps": 7}
    got = load_elsewhere(
        tmp_path / "model", call=call, custom_pipeline=str(tmp_path / "model"), trust_remote_code=True
    )
    assert got["variance"] == "spectral"
    np.testing.assert_array_equal(np.float32(got["images"]), draw(pipe, **call))


PACKAGE = Path(ddpm_cars.__file__).parent
JOINED = {name: ast.parse(source) for name, source in module_sources().items()}


def defined_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def imported_names(tree: ast.Module) -> dict[str, str]:
    nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {a.asname or a.name: f"{getattr(node, 'module', '')}.{a.name}" for node in nodes for a in node.names}


def test_no_portable_module_is_forgotten():
    portable = {f"portable.{path.stem}" for path in (PACKAGE / "portable").glob("*.py")} - {"portable.__init__"}
    assert set(JOINED) == {*portable, "scheduling_ddpm_cars", "pipeline_ddpm_cars"}


def test_modules_that_are_joined_do_not_get_in_the_way_of_each_other():
    home: dict[str, str] = {}
    for name, tree in JOINED.items():
        for defined in defined_names(tree) - {"logger", "__all__"}:
            assert defined not in home, f"{defined} is defined in {home[defined]} and in {name}."
            home[defined] = name
    imported: dict[str, str] = {}
    for name, tree in JOINED.items():
        for local, origin in imported_names(tree).items():
            assert imported.setdefault(local, origin) == origin, f"{local} is {origin} in {name} only."
    # A logger has the name of its module, and there is one module.
    assert "logger" not in imported
    assert not home.keys() & imported.keys()


def test_joined_modules_import_one_another_by_the_names_that_they_have_in_one_file():
    for name in JOINED:
        tree = ast.parse(PACKAGE.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("ddpm_cars") for alias in node.names), name
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("ddpm_cars"):
                assert node in tree.body, f"{name} imports {node.module} within a function."
                assert str(node.module).removeprefix("ddpm_cars.") in JOINED
                assert all(alias.asname in (None, alias.name) for alias in node.names), name
    assert not any("ddpm_cars" in origin for tree in JOINED.values() for origin in imported_names(tree).values())


def test_the_one_file_defines_a_name_before_a_module_needs_it():
    seen: set[str] = set()
    for name in JOINED:
        tree = ast.parse(PACKAGE.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        assert {n for n, origin in imported_names(tree).items() if origin.startswith("ddpm_cars.")} <= seen
        seen |= defined_names(tree)
    namespace: dict = {"__name__": "joined"}
    exec(compile(one_file_source(), "pipeline.py", "exec"), namespace)
    assert {"DDPMCarsPipeline", "DDPMCarsScheduler"} <= namespace.keys()


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
    got = load_elsewhere(folder, call={"num_inference_steps": 30}, custom_pipeline=str(folder), trust_remote_code=True)
    assert got["names"] == ["DDPMCarsPipeline", "DDPMCarsScheduler"]
    assert got["variance"] == "analytic"
    expected = draw(DDPMCarsPipeline.from_pretrained(folder), num_inference_steps=30)
    np.testing.assert_allclose(got["images"], expected, rtol=0, atol=1e-4)
