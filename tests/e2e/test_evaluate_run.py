"""scripts/evaluate.py in processes of its own: one and two, interrupted and again, two models, and mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ddpm_cars.runs.saved_pipeline import open_model_folder
from tests.support.patience import PATIENCE_SECONDS
from tests.support.training_helpers import LAUNCHER, SCRIPTS, Runs

# Its features are the pixels themselves, which take no time.
SETTINGS = {
    "extractor": "torch.nn:Flatten",
    "num_images": 40,
    "batch_size": 16,
    "num_inference_steps": 4,
    "num_likelihood_images": 8,
    "mixed_precision": "no",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_unet_config: dict) -> Runs:
    """Two models of 8x8 toy cars, `good` trained for longer than `poor`."""
    runs = Runs(tmp_path_factory.mktemp("evaluate"), tiny_unet_config, num_images=(90, 10))
    for name, steps in (("good", 60), ("poor", 1)):
        runs.train(name, validation_split="test", max_train_steps=steps, train_batch_size=16)
    return runs


def arguments(**changes: object) -> list[str]:
    settings = {k: v for k, v in {**SETTINGS, **changes}.items() if v is not None}
    return [text for name, value in settings.items() for text in (f"--{name}", *str(value).split())]


def start(runs: Runs, *launcher: str, **changes: object) -> subprocess.Popen:
    return runs.start_command([sys.executable, *launcher, str(SCRIPTS / "evaluate.py"), *arguments(**changes)])


def evaluate(runs: Runs, *launcher: str, code: int = 0, **changes: object) -> subprocess.CompletedProcess:
    if not launcher:
        return runs.run(SCRIPTS / "evaluate.py", *arguments(**changes), code=code)
    run = runs.finish(start(runs, *launcher, **changes))
    assert run.returncode == code, run.stderr[-3000:]
    return run


def metrics_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def without_clock(metrics: dict) -> dict:
    samples = [{k: v for k, v in entry.items() if k != "images_per_second"} for entry in metrics["samples"]]
    return {**metrics, "samples": samples, "cost": None}


TABLE = {"steps": "2 3", "schedulers": "fixed_large analytic spectral DDIMScheduler", "likelihood_steps": "5"}


@pytest.fixture(scope="module")
def whole(runs: Runs) -> dict:
    """The metrics of `good`, measured by one process without a break."""
    run = evaluate(runs, pretrained_model_name_or_path="good", output_dir="whole", **TABLE)
    assert "report: whole/report.html" in run.stdout
    assert "fixed_small" in run.stdout
    return metrics_in(runs.folder / "whole")


def test_everything_that_was_asked_for_is_measured_with_what_it_was_measured_with(whole: dict):
    assert whole["model"] == whole["model"] | {"name": "good", "resolution": 8, "num_train_timesteps": 20}
    assert whole["data"]["source"] == "cars"
    assert (whole["data"]["num_images"], whole["data"]["num_held_out_images"]) == (90, 10)
    assert (whole["seed"], whole["num_images"], whole["extractor"]["name"]) == (0, 40, "torch.nn:Flatten")
    asked = {(label, n) for label in TABLE["schedulers"].split() for n in (2, 3)}
    got = [(entry["label"], entry["num_inference_steps"]) for entry in whole["samples"]]
    assert got[0] == ("fixed_small", 4)
    assert set(got[1:]) == asked
    assert len(got) == 9
    for entry in [*whole["samples"], whole["floor"]]:
        assert entry["num_images"] == 40
        assert entry["metrics"]["frechet_distance"] > 0
        assert entry["metrics"]["frechet_distance_std_error"] > 0
    assert whole["floor"]["metrics"]["frechet_distance"] < whole["samples"][0]["metrics"]["frechet_distance"]
    bounds = {(b["variance_type"], b["chain"], b["num_inference_steps"]): b["bpd"] for b in whole["likelihood"]}
    kinds, chains = ("fixed_small", "fixed_large", "analytic"), (("all", 20), ("leading", 5), ("least cost", 5))
    assert set(bounds) == {(kind, *chain) for kind in kinds for chain in chains}
    assert all(0 < bpd < 100 for bpd in bounds.values())
    assert len(whole["eps_mse"]["eps_mse"]) == 20
    assert {"features", "pixels"} < set(whole["memorisation"])


def test_the_report_and_its_images_are_there(runs: Runs, whole: dict):
    names = "samples denoising neighbours_features neighbours_pixels bits_by_timestep eps_mse spectrum quality loss"
    for name in names.split():
        with Image.open(runs.folder / "whole" / f"{name}.png") as picture:
            assert min(picture.size) > 30
    page = (runs.folder / "whole" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(names.split())
    assert str(runs.folder) not in page
    card = (runs.folder / "whole" / "card.md").read_text()
    # Heading, rule, nine samplers and the floor; heading, rule and nine bounds.
    assert card.count("\n| ") == 12 + 11
    assert str(runs.folder) not in card
    assert str(runs.folder) not in json.dumps(whole)


def test_two_processes_measure_what_one_does(runs: Runs, whole: dict):
    run = evaluate(runs, *LAUNCHER, pretrained_model_name_or_path="good", output_dir="two", **TABLE)
    assert run.stdout.count("report: two/report.html") == 1
    two = without_clock(metrics_in(runs.folder / "two"))
    one = without_clock(whole)
    assert two.keys() == one.keys()
    assert close(one, two) == []


def close(a: object, b: object, path: str = "") -> list[str]:
    """Return where two JSON values differ by more than rounding."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [place for key in a for place in close(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in close(*pair, f"{path}/{i}")]
    if isinstance(a, float) and isinstance(b, float):
        return [] if abs(a - b) <= 1e-3 * max(1, abs(a)) else [f"{path}: {a} {b}"]
    return [] if a == b else [f"{path}: {a} {b}"]


def test_an_interrupted_measurement_goes_on_where_it_was(runs: Runs, whole: dict):
    settings = {"pretrained_model_name_or_path": "good", "output_dir": "broken", **TABLE}
    process = start(runs, **settings)
    path, until = runs.folder / "broken" / "metrics.json", time.monotonic() + PATIENCE_SECONDS
    while not path.exists() or len(metrics_in(path.parent)["samples"]) < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    runs.finish(process)
    before = metrics_in(path.parent)
    assert len(before["samples"]) < len(whole["samples"])
    evaluate(runs, **settings)
    after = metrics_in(path.parent)
    assert close(without_clock(whole), without_clock(after)) == []
    # What was there was not measured again.
    speeds = [
        {e["label"]: e["images_per_second"] for e in m["samples"] if e["num_inference_steps"] == 4}
        for m in (before, after)
    ]
    assert speeds[0] == speeds[1]


def test_the_same_command_again_measures_nothing(runs: Runs, whole: dict):
    evaluate(runs, pretrained_model_name_or_path="good", output_dir="whole", **TABLE)
    again = metrics_in(runs.folder / "whole")
    assert {**again, "cost": None} == {**whole, "cost": None}
    assert again["cost"]["seconds"] == whole["cost"]["seconds"]


def test_what_has_changed_is_measured_again_and_nothing_old_is_shown(runs: Runs):
    left = shutil.ignore_patterns("checkpoints", "evaluation")
    model = Path(shutil.copytree(runs.folder / "good", runs.folder / "calibrated", ignore=left))
    settings = {"pretrained_model_name_or_path": "calibrated", "num_inference_steps": 100}
    evaluate(runs, **settings, steps="2 3", schedulers="fixed_large")
    before = metrics_in(model / "evaluation")
    # More steps than there are timesteps are all of them.
    assert before["samples"][0]["num_inference_steps"] == 20
    assert (model / "evaluation" / "quality.png").exists()
    assert open_model_folder(model).metrics is not None
    few = ("--num_timesteps", "3", "--num_images", "8", "--fit_init_noise")
    runs.run(SCRIPTS / "calibrate.py", "--pretrained_model_name_or_path", "calibrated", *few)
    # What was measured before is not what is published now.
    assert open_model_folder(model).stale_metrics == model / "evaluation" / "metrics.json"
    pushed = runs.run(SCRIPTS / "push_to_hub.py", "calibrated", "me/cars", "--dry_run")
    assert "measured with other weights or another calibration, and is left out; evaluate again" in pushed.stderr
    run = evaluate(runs, **settings)
    after = metrics_in(model / "evaluation")
    assert after["samples"][0]["metrics"] != before["samples"][0]["metrics"]
    (aside,) = model.glob("evaluation-scheduler-*")
    assert (
        f"was measured with another calibration or scheduler, and was moved to {aside.relative_to(runs.folder)}"
        in run.stderr
    )
    assert metrics_in(aside) == before
    assert (aside / "quality.png").exists()
    assert not (model / "evaluation" / "quality.png").exists()
    assert open_model_folder(model).metrics == after


def test_evaluations_with_other_settings_live_beside_each_other(runs: Runs):
    left = shutil.ignore_patterns("checkpoints", "evaluation*")
    for name, source in (("a", "good"), ("b", "poor")):
        shutil.copytree(runs.folder / source, runs.folder / name, ignore=left)
    evaluate(runs, pretrained_model_name_or_path="a", likelihood_steps="5")
    first = metrics_in(runs.folder / "a" / "evaluation")
    others = {"seed": 3, "num_inference_steps": 2, "num_likelihood_images": 6}
    run = evaluate(runs, compare="a b", **others)
    assert "this one is written to a/evaluation-seed-3-2-steps-6-likelihood-images" in run.stderr
    assert metrics_in(runs.folder / "a" / "evaluation") == first
    beside = metrics_in(runs.folder / "a" / "evaluation-seed-3-2-steps-6-likelihood-images")
    assert (beside["seed"], beside["samples"][0]["num_inference_steps"]) == (3, 2)
    assert (runs.folder / "comparison" / "report.html").exists()
    # Both are found again: nothing is measured a second time, and what is new is added.
    evaluate(runs, compare="a b", **others)
    evaluate(runs, pretrained_model_name_or_path="a", likelihood_steps="4")
    assert sorted(path.name for path in (runs.folder / "a").glob("evaluation*")) == [
        "evaluation",
        "evaluation-seed-3-2-steps-6-likelihood-images",
    ]
    again = metrics_in(runs.folder / "a" / "evaluation-seed-3-2-steps-6-likelihood-images")
    assert {**again, "cost": None} == {**beside, "cost": None}
    after = metrics_in(runs.folder / "a" / "evaluation")
    assert after["samples"] == first["samples"]
    assert [bound for bound in after["likelihood"] if bound["num_inference_steps"] != 4] == first["likelihood"]
    assert len(after["likelihood"]) == len(first["likelihood"]) + 6


def test_two_models_are_set_side_by_side(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    run = evaluate(runs, compare="good poor", output_dir="pair")
    assert "report: pair/report.html" in run.stdout
    assert run.stderr.count("accelerate launch uses one of 6 cores") == 1
    comparison = json.loads((runs.folder / "pair" / "comparison.json").read_text())
    assert [model["name"] for model in comparison["models"]] == ["good", "poor"]
    # The second model takes more bits, by far more than the error.
    difference = comparison["bpd_difference"]
    assert difference["bpd"] > 5 * difference["bpd_std_error"] > 0
    good, poor = (metrics_in(runs.folder / name / "evaluation") for name in ("good", "poor"))
    assert good["data"] == poor["data"]
    assert good["floor"] == poor["floor"]
    expected = sum(poor["likelihood"][0]["image_bpd"]) / 8 - sum(good["likelihood"][0]["image_bpd"]) / 8
    assert difference["bpd"] == pytest.approx(expected, rel=1e-4)
    # Figures of few images are not shown, and metrics.json says why.
    assert good["not_measured"] == dict.fromkeys(
        ("precision", "recall", "density", "coverage"), "it takes 300 images or more"
    )
    assert "precision" not in good["samples"][0]["metrics"]
    # Bits of another number of images are measured beside.
    evaluate(runs, pretrained_model_name_or_path="poor", num_likelihood_images=9)
    assert metrics_in(runs.folder / "poor" / "evaluation") == poor
    assert (runs.folder / "poor" / "evaluation-9-likelihood-images" / "report.html").exists()


MISTAKES = {
    "too few images": ({"num_images": 46}, r"lower --num_images to 45 or less"),
    "fewer than an error needs": ({"num_images": 39}, "num_images is 39; it must be 40 or more, and takes twice"),
    "no model": ({"pretrained_model_name_or_path": "nowhere", "train_data_dir": "cars"}, "nowhere"),
    "empty folder": ({"train_data_dir": "empty"}, "empty"),
    "no such split": ({"train_data_dir": "cars", "validation_split": "dev"}, "the splits of cars are train, test"),
    "too many steps in the table": ({"steps": "5 30"}, "steps is 30"),
    "unknown scheduler": (
        {"steps": "5", "schedulers": "fixed_smal"},
        "schedulers has fixed_smal, which is no scheduler for these models; did you mean fixed_small?",
    ),
    "unknown extractor": ({"extractor": "resnet"}, "resnet"),
    "missing weights": (
        {"extractor": "torch.nn:Flatten", "extractor_weights": "gone.safetensors"},
        "gone.safetensors",
    ),
    "a file in the place of the results": ({"output_dir": "cars/train/00000.png"}, "is a file; choose another"),
    "two models at once": ({"compare": "good poor"}, "exactly one of"),
    "one model to compare": (
        {"pretrained_model_name_or_path": None, "compare": "good"},
        "compare is good; it takes",
    ),
    "the same twice": ({"pretrained_model_name_or_path": None, "compare": "good ./good"}, "twice"),
}


def refused(runs: Runs, **changes: object) -> str:
    """Run a command line that must fail with exit code 2, and return its last line."""
    run = evaluate(runs, code=2, **{"output_dir": "mistaken", **changes})
    assert not (runs.folder / "mistaken").exists()
    return runs.last_line(run)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(runs: Runs, name: str):
    (runs.folder / "empty").mkdir(exist_ok=True)
    changes, words = MISTAKES[name]
    last = refused(runs, **{"pretrained_model_name_or_path": "good", **changes})
    assert ": error: " in last
    assert words in last


def test_models_of_other_sizes_are_not_compared(runs: Runs):
    runs.train("large", validation_split="test", max_train_steps=1, resolution=16)
    last = refused(runs, compare="good large")
    assert "good generates 8 pixels with 3 channels and large generates 16 pixels" in last


def test_a_model_without_a_run_behind_it_needs_to_be_told_the_images(runs: Runs):
    left = shutil.ignore_patterns("config.yaml", "loss.json", "checkpoints", "evaluation")
    shutil.copytree(runs.folder / "good", runs.folder / "moved", ignore=left)
    run = evaluate(runs, code=2, pretrained_model_name_or_path="moved")
    last = runs.last_line(run)
    assert last.startswith("evaluate.py: error: ")
    assert "moved has no config.yaml" in last
    told = {"train_data_dir": "cars", "validation_split": "test", "num_likelihood_images": "null"}
    evaluate(runs, pretrained_model_name_or_path="moved", **told)
    measured = metrics_in(runs.folder / "moved" / "evaluation")
    assert "likelihood" not in measured
    assert "loss" not in {path.stem for path in (runs.folder / "moved" / "evaluation").iterdir()}
