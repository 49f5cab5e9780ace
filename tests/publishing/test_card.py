"""The model card of a folder: everything in it comes from the folder's files."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DModel
from huggingface_hub import ModelCard

import ddpm_cars
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.errors import UserError
from ddpm_cars.publishing import card
from ddpm_cars.publishing.card import find_template, is_untouched, make_card, seal
from ddpm_cars.runs.saved_pipeline import open_model_folder
from tests.support.publish_helpers import training_facts, write_run
from tests.support.report_helpers import HOSTILE


@pytest.fixture(scope="module")
def run(unet: UNet2DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "cars", unet)


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the run with other values in one of its JSON files."""

    def change(name: str, path: str, value: Any) -> Path:
        folder = shutil.copytree(run, tmp_path / "changed")
        contents = json.loads((folder / name).read_text())
        *parents, last = path.split(".")
        place = contents
        for key in parents:
            place = place[key]
        place[last] = value
        (folder / name).write_text(json.dumps(contents))
        return folder

    return change


def text_of(folder: Path, repo_id: str = "me/cars", model_license: str | None = None, **kwargs: Any) -> str:
    return make_card(open_model_folder(folder), "cars", repo_id, model_license, kwargs.get("data_license"))


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else found[1].strip()


def metadata(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---")[1])


def test_metadata_is_what_the_hub_knows(run: Path):
    text = text_of(run, model_license="cc-by-nc-4.0")
    data = metadata(text)
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert data["license"] == "cc-by-nc-4.0"
    assert {"ddpm", "ddpm-cars", "unconditional-image-generation"} <= set(data["tags"])
    assert "datasets" not in data
    # Read back by the Hub's own client.
    results = ModelCard(text).data.eval_results
    assert results is not None
    values = {result.metric_type: result for result in results}
    assert values["frechet_distance"].metric_value == 20.13
    assert values["frechet_distance"].metric_name == (
        "FD-EfficientNet (fixed_small, 100 steps, 2,000 images; real images: 3.21 ± 0.05)"
    )
    assert values["frechet_distance"].dataset_name == "photographs"
    assert values["frechet_distance"].dataset_split == "train"
    assert values["bits_per_dimension"].metric_value == 4.1036
    assert values["bits_per_dimension"].dataset_split == "test"
    # Of the saved sampler and of the whole chain only, and without what few images make unstable.
    others = {"kernel_distance", "contrast", "spectrum_error_octaves"}
    assert values.keys() == {"frechet_distance", "bits_per_dimension", *others}
    assert len(results) == 5


def test_every_part_says_what_the_files_say(run: Path):
    text = text_of(run, data_license="research only")
    assert text.startswith("---\n")
    assert "# cars\n" in text
    assert "8x8" in text
    assert f"{sum(p.numel() for p in open_model_folder(run).pipeline.unet.parameters()):,}" in text
    assert "![Samples](samples.png)" in text
    assert "![Loss](loss.png)" in section(text, "Training")
    data = section(text, "Training data")
    assert "6,633 images of photographs." in data
    assert "The split test was kept out of training." in data
    assert "Licence of the images: research only." in data
    training = section(text, "Training")
    for row in (
        ("Optimiser steps", "12,000"),
        ("Images per step", "32"),
        ("Weights", "averaged, half-life 400 steps"),
        ("Mean squared error of eps, 500 images of test", "0.012346"),
        ("Learning rate", "0.0001"),
        ("Precision", "bfloat16 mixed with float32"),
    ):
        assert f"| {row[0]} | {row[1]} |" in training
    evaluation = section(text, "Evaluation")
    assert "20.1 ± 0.3" in evaluation
    assert "2,000 images generated" in evaluation
    assert "efficientnet-lite0" in evaluation
    assert section(text, "Hardware") == (
        "10,000 steps in 2.00 hours, 2 processes on Some CPU. 2,000 steps in 0.25 hours, Some GPU."
    )
    assert "ho2020denoising" in section(text, "Citation")
    assert "imitates its training images" in section(text, "Limits and bias")


def test_the_three_ways_to_load_are_there(run: Path):
    use = section(text_of(run, "me/cars"), "Use")
    assert 'DDPMCarsPipeline.from_pretrained("me/cars")' in use
    assert 'from_pretrained("me/cars", custom_pipeline="me/cars", trust_remote_code=True)' in use
    assert 'DiffusionPipeline.from_pretrained("me/cars")\n' in use
    assert "the same images from the same seeds" in use
    assert use.count("pipe()") == 3


def test_the_model_inside_the_package_is_found_there(run: Path):
    use = section(make_card(open_model_folder(run), "cars", None, None, None), "Use")
    assert "from_pretrained(ddpm_cars.pretrained())" in use
    assert use.count("pipe()") == 1
    assert "None" not in use


def test_stock_is_told_the_number_of_steps_and_what_it_lacks(unet: UNet2DModel, tmp_path: Path):
    scheduler = DDPMCarsScheduler(num_train_timesteps=300, scale_betas_for_timesteps=True)
    ddpm_cars.calibrate(unet, torch.zeros(8, 3, 8, 8), scheduler, num_timesteps=3, num_images=8)
    ddpm_cars.fit_init_noise(torch.zeros(8, 3, 8, 8), scheduler)
    scheduler = DDPMCarsScheduler.from_config(scheduler.config, variance_type="analytic")
    DDPMCarsPipeline(unet, scheduler).save_pretrained(tmp_path)
    use = section(text_of(tmp_path), "Use")
    assert "pipe(num_inference_steps=300)" in use
    assert use.count("pipe()") == 2
    assert "fixed_small in place of analytic and from plain noise" in use


def test_a_model_with_classes_is_asked_for_one_and_stock_is_not_offered(changed: Callable[..., Path]):
    text = text_of(changed("training.json", "data.classes", ['red "fast" cars', "vans"]))
    use = section(text, "Use")
    assert use.count('pipe(class_labels="red \\"fast\\" cars")') == 2
    assert "alone" not in use
    assert "It knows 2 classes" in text


def test_a_bare_folder_has_a_card_without_what_nobody_knows(unet: UNet2DModel, tmp_path: Path):
    DDPMCarsPipeline(unet, DDPMCarsScheduler()).save_pretrained(tmp_path)
    text = text_of(tmp_path)
    data = metadata(text)
    assert set(data) == {"library_name", "pipeline_tag", "tags"}
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Use", "Limits and bias", "Citation"]
    assert "![" not in text
    assert "None" not in text
    assert "{{" not in text
    assert not re.search(r"\n\n\n", text)


@pytest.mark.parametrize("identity", ["weights_sha256", "scheduler_config_sha256"])
def test_figures_of_other_weights_or_samplers_are_left_out(changed: Callable[..., Path], identity: str):
    folder = changed("evaluation/metrics.json", f"model.{identity}", "0" * 16)
    found = open_model_folder(folder)
    assert found.metrics is None
    assert found.stale_metrics == folder / "evaluation" / "metrics.json"
    text = text_of(folder)
    assert section(text, "Evaluation") == ""
    assert "model-index" not in text


@pytest.mark.parametrize("lacks", ["samples", "floor"])
def test_an_evaluation_that_was_interrupted_early_is_left_out(run: Path, tmp_path: Path, lacks: str):
    folder = shutil.copytree(run, tmp_path / "interrupted")
    path = folder / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics[lacks]
    path.write_text(json.dumps(metrics))
    assert open_model_folder(folder).stale_metrics == path
    assert section(text_of(folder), "Evaluation") == ""


def test_the_evaluation_of_the_model_counts_before_those_beside_it_and_of_these_the_one_of_most_images(
    run: Path, tmp_path: Path
):
    folder = shutil.copytree(run, tmp_path / "beside")
    here = folder / "evaluation"
    paths = [here / "metrics.json"]
    for number in (300, 5000, 400):
        path = shutil.copytree(here, folder / f"evaluation-{number}-images") / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "num_images": number}))
        paths.append(path)
    assert open_model_folder(folder).metrics_path == paths[0]
    # Once the weights have changed, what was measured of the earlier ones does not count.
    metrics = json.loads(paths[0].read_text())
    metrics["model"]["weights_sha256"] = "0" * 16
    paths[0].write_text(json.dumps(metrics))
    found = open_model_folder(folder)
    assert (found.metrics_path, found.stale_metrics) == (paths[2], None)
    assert "of 5,000 images" in section(text_of(folder), "Evaluation")


def test_a_dataset_of_the_hub_is_linked(run: Path, tmp_path: Path):
    folder = shutil.copytree(run, tmp_path / "hub")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings |= {"train_data_dir": None, "dataset_name": "somebody/cars"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    facts = training_facts()
    facts["data"] |= {"dataset_id": "somebody/cars", "num_images": None}
    (folder / "training.json").write_text(json.dumps(facts))
    text = text_of(folder)
    assert metadata(text)["datasets"] == ["somebody/cars"]
    assert section(text, "Training data").startswith("[somebody/cars](")
    assert {r.dataset_type for r in ModelCard(text).data.eval_results or ()} == {"somebody/cars"}


def test_text_from_outside_is_shown_as_it_is(changed: Callable[..., Path]):
    text = text_of(changed("training.json", "data.source", HOSTILE + "\n# no heading"))
    assert "<script>" not in text
    assert "\n# no heading" not in text


def test_a_seal_tells_edited_cards(run: Path):
    text = text_of(run)
    assert text == text_of(run)
    assert is_untouched(text)
    assert is_untouched(text.replace("\n", "\r\n"))
    assert not is_untouched(text.replace("# cars", "# my cars"))
    assert not is_untouched(text + "more\n")
    assert not is_untouched("# cars\n")
    assert is_untouched(seal("anything"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("training.json", "{"), ("config.yaml", "a: [1"), ("evaluation/metrics.json", "\x00")],
)
def test_a_file_that_cannot_be_read_is_named(run: Path, tmp_path: Path, name: str, content: str):
    folder = shutil.copytree(run, tmp_path / "broken")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=name):
        open_model_folder(folder)


def test_a_folder_without_a_model_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"no model_index\.json"):
        open_model_folder(tmp_path)
    folder = shutil.copytree(run, tmp_path / "half")
    shutil.rmtree(folder / "unet")
    with pytest.raises(UserError, match="no pipeline can be loaded"):
        open_model_folder(folder)


def test_the_template_is_found_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert find_template() == Path(__file__).parents[2] / "model_card.md"
    installed = tmp_path / "a" / "b" / "ddpm_cars"
    installed.mkdir(parents=True)
    monkeypatch.setattr(card, "__file__", str(installed / "publishing" / "card.py"))
    with pytest.raises(UserError, match="install ddpm-cars again"):
        find_template()
    (installed / "model_card.md").write_text("# card")
    assert find_template() == installed / "model_card.md"
