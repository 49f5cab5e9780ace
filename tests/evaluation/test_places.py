"""Which folder an evaluation is written to, and that nothing that was measured is lost."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.places import comparison_folder, differences, find_place, is_standard
from ddpm_cars.runs.run_folder import EvaluationFolder
from ddpm_cars.runtime.folders import FolderLock

Metrics = dict[str, Any]
ASKED: Metrics = {
    "model": {"name": "cars", "weights_sha256": "0123456789abcdef", "scheduler_config_sha256": "aaaaaaaaaaaaaaaa"},
    "data": {
        "source": "My Cars",
        "split": "all",
        "resize": "squash",
        "pictures_sha256": "1234567890abcdef",
        "num_reference_images": 100,
    },
    "seed": 0,
    "num_images": 2000,
    "mixed_precision": "no",
    "extractor": {"name": "efficientnet-lite0", "fingerprint": "ffffffffffffffff"},
    "num_inference_steps": 100,
    "num_likelihood_images": 500,
}
CHANGES: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "seed": (("seed",), 5, "seed-5"),
    "num_images": (("num_images",), 200, "200-images"),
    "mixed_precision": (("mixed_precision",), "bf16", "precision-bf16"),
    "extractor": (("extractor", "name"), "torch.nn:Flatten", "torch-nn-flatten"),
    "weights of the extractor": (("extractor", "fingerprint"), "0" * 16, "extractor-00000000"),
    "steps": (("num_inference_steps",), 20, "20-steps"),
    "bits": (("num_likelihood_images",), 8, "8-likelihood-images"),
    "folder": (("data", "source"), "Other Cars", "other-cars"),
    "split": (("data", "split"), "train", "train"),
    "resize": (("data", "resize"), "crop", "crop"),
    "images": (("data", "pictures_sha256"), "9876543210fedcba", "data-98765432"),
}


def changed(keys: tuple[str, ...], value: Any, metrics: Metrics = ASKED) -> Metrics:
    metrics = copy.deepcopy(metrics)
    *path, last = keys
    place = metrics
    for key in path:
        place = place[key]
    place[last] = value
    return metrics


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_evaluation(metrics: Metrics, name: str = "evaluation") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "samples.png").write_bytes(b"image")
        (folder / "own notes.txt").write_text("mine")
        return folder

    return write_evaluation


def metrics_in(folder: Path) -> Metrics:
    return json.loads((folder / "metrics.json").read_text())


def test_the_first_evaluation_is_in_the_folder_of_that_name_and_goes_on_there(tmp_path: Path, write: Callable):
    base = tmp_path / "evaluation"
    assert find_place(base, changed(("seed",), 7)).path == base
    assert not base.exists()
    write(ASKED)
    assert find_place(base, ASKED).path == base
    # The name of the model and the size of the reference decide nothing.
    same = changed(("model", "name"), "moved", changed(("data", "num_reference_images"), 99))
    assert find_place(base, same).path == base


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_beside_and_are_found_again(tmp_path: Path, write: Callable, name: str):
    keys, value, words = CHANGES[name]
    base, asked = write(ASKED), changed(keys, value)
    assert len(differences(ASKED, asked)) == 1
    beside = find_place(base, asked).path
    assert beside == tmp_path / f"evaluation-{words}"
    assert not beside.exists()
    write(asked, beside.name)
    assert find_place(base, asked).path == beside
    assert find_place(base, ASKED).path == base
    assert metrics_in(base) == ASKED


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path, write: Callable):
    base = write(ASKED)
    asked = changed(("seed",), 5)
    (tmp_path / "evaluation-seed-5").mkdir()
    assert find_place(base, asked).path.name == "evaluation-seed-5-2"


@pytest.mark.parametrize(
    ("steps", "keys", "words"),
    [
        (None, ("model", "weights_sha256"), "weights-01234567"),
        (2000, ("model", "weights_sha256"), "step-2000"),
        (2000, ("model", "scheduler_config_sha256"), "scheduler-aaaaaaaa"),
    ],
)
def test_an_evaluation_of_earlier_weights_is_moved_aside(
    tmp_path: Path,
    write: Callable,
    steps: int | None,
    keys: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
):
    old = ASKED if steps is None else changed(("model", "num_training_steps"), steps)
    base = write(old)
    new = changed(keys, "f" * 16)
    assert find_place(base, new).path == base
    aside = tmp_path / f"evaluation-{words}"
    assert metrics_in(aside) == old
    assert (aside / "samples.png").read_bytes() == b"image"
    # Only files of the evaluation are moved, so a folder may hold others.
    assert {path.name for path in base.iterdir()} - {".lock"} == {"own notes.txt"}
    assert f"was moved to {aside}" in capsys.readouterr().err
    # The earlier weights are found again.
    (base / "metrics.json").write_text(json.dumps(new))
    assert find_place(base, old).path == aside
    assert metrics_in(base) == new


@pytest.mark.parametrize("setting", ["is_fixed", "is_standard"])
def test_what_was_asked_for_by_name_or_has_the_default_settings_takes_the_folder(
    tmp_path: Path, write: Callable, setting: str
):
    base = write(changed(("num_images",), 200))
    assert find_place(base, ASKED, **{setting: True}).path == base
    assert metrics_in(tmp_path / "evaluation-200-images")["num_images"] == 200
    assert not (base / "metrics.json").exists()


def test_a_folder_that_the_user_names_is_the_only_one(
    tmp_path: Path, write: Callable, monkeypatch: pytest.MonkeyPatch
):
    write(changed(("seed",), 5), "evaluation-seed-5")
    base = write(ASKED)
    asked = changed(("seed",), 5)
    assert find_place(base, asked, is_fixed=True).path == base
    assert metrics_in(tmp_path / "evaluation-seed-0") == ASKED
    # A path such as "." has no name of its own.
    monkeypatch.chdir(base)
    (base / "metrics.json").write_text(json.dumps(asked))
    assert find_place(Path("."), ASKED, is_fixed=True).path == Path(".")
    assert metrics_in(tmp_path / "evaluation-seed-5-2") == asked


def test_what_an_earlier_version_did_not_write_fits_everything():
    earlier = copy.deepcopy(ASKED)
    del earlier["model"]["scheduler_config_sha256"], earlier["mixed_precision"], earlier["num_inference_steps"]
    del earlier["num_likelihood_images"]
    assert differences(earlier, ASKED) == []
    # It says these elsewhere.
    earlier |= {"memorisation": {"sampler": {"label": "fixed_small", "num_inference_steps": 20}}}
    earlier |= {"likelihood": [{"num_images": 8}]}
    assert differences(earlier, ASKED) == ["num_inference_steps", "num_likelihood_images"]
    # Bits that are not asked for differ from nothing.
    assert differences(earlier, changed(("num_likelihood_images",), None)) == ["num_inference_steps"]


def test_an_evaluation_that_is_being_written_is_not_moved(tmp_path: Path, write: Callable):
    base = write(ASKED)
    lock = FolderLock(base)
    lock.acquire()
    with pytest.raises(UserError, match="is in use by another"):
        find_place(base, changed(("model", "weights_sha256"), "f" * 16))
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]
    assert metrics_in(base) == ASKED
    lock.release()


def test_folders_without_an_evaluation_are_not_beside(tmp_path: Path, write: Callable):
    write(ASKED)
    write(ASKED, "evaluation-b")
    write(ASKED, "evaluation-a")
    (tmp_path / "evaluation-c").mkdir()
    write(ASKED, "evaluations")
    names = [folder.path.name for folder in EvaluationFolder(tmp_path / "evaluation").beside()]
    assert names == ["evaluation-a", "evaluation-b"]
    assert EvaluationFolder(tmp_path / "nowhere" / "evaluation").beside() == []


@pytest.mark.parametrize("changes", [{}, {"batch_size": 8, "steps": (10,)}, {"seed": 1}, {"mixed_precision": "no"}])
def test_what_changes_no_figure_leaves_the_settings_the_default_ones(changes: dict[str, Any]):
    config = EvaluateConfig(pretrained_model_name_or_path="model", **changes)
    assert is_standard(config) == (not changes.keys() & {"seed", "mixed_precision"})


def test_a_comparison_of_two_others_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert comparison_folder(None, ["a", "me/b"]).path == Path("comparison")
    Path("comparison").mkdir()
    Path("comparison/comparison.json").write_text(json.dumps({"models": [{"name": "a"}, {"name": "me/b"}]}))
    assert comparison_folder(None, ["a", "me/b"]).path == Path("comparison")
    assert comparison_folder(None, ["me/b", "a"]).path == Path("comparison-me--b-and-a")
    assert comparison_folder("comparison", ["me/b", "a"]).path == Path("comparison")
