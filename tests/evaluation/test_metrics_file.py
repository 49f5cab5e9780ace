"""What metrics.json keeps between calls."""

import json
from pathlib import Path

import pytest

from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.metrics_file import MetricsFile
from ddpm_cars.runtime.hardware import versions

HEAD = {"model": {"name": "cars", "weights_sha256": "0123"}, "num_images": 40}


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def sampler(label: str, steps: int, distance: float) -> dict:
    return {"label": label, "num_inference_steps": steps, "metrics": {"frechet_distance": distance}}


def test_what_was_saved_is_known_to_the_next_call(tmp_path: Path):
    path = tmp_path / "new folder" / "metrics.json"
    metrics = MetricsFile(path, HEAD)
    assert not path.exists()
    metrics.put_sampler(sampler("fixed_small", 10, 3.0), [1.0])
    with metrics.timed("sampling"):
        pass
    metrics.save()
    again = MetricsFile(path, HEAD)
    assert again.values == metrics.values == json.loads(path.read_text())
    assert again.sampler("fixed_small", 10) == sampler("fixed_small", 10, 3.0)
    assert again.sampler("fixed_small", 20) is None
    assert again.values["cost"]["peak_memory_mib"] > 50
    assert again.values["versions"] == versions()


def test_what_is_measured_with_other_versions_is_added_and_both_are_listed(tmp_path: Path):
    path = tmp_path / "metrics.json"
    metrics = MetricsFile(path, HEAD)
    metrics.values["floor"] = {"num_images": 40}
    metrics.save()
    path.write_text(path.read_text().replace(f'"torch": "{versions()["torch"]}"', '"torch": "1.0.0"'))
    again = MetricsFile(path, HEAD)
    assert again.values["floor"] == {"num_images": 40}
    # Nothing has been measured with the present version yet.
    assert again.values["versions"]["torch"] == "1.0.0"
    for _ in range(2):
        with again.timed("sampling"):
            pass
    assert again.values["versions"] == {**versions(), "torch": f"1.0.0, {versions()['torch']}"}


def test_a_folder_with_another_name_goes_on_and_an_earlier_version_is_completed(tmp_path: Path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"format": 1, **HEAD, "samples": [sampler("fixed_small", 10, 3.0)]}))
    head = {**HEAD, "model": {"name": "moved", "weights_sha256": "0123"}, "num_inference_steps": 10}
    values = MetricsFile(path, head).values
    assert values["model"]["name"] == "moved"
    assert values["samples"] == [sampler("fixed_small", 10, 3.0)]
    assert values["num_inference_steps"] == 10
    assert values["cost"] == {"seconds": {}, "peak_memory_mib": 0}


@pytest.mark.parametrize(
    ("text", "words"), [('{"format": 1, "mod', "cannot be read"), ("[1]", "holds no JSON object")]
)
def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path, text: str, words: str):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=rf"metrics\.json {words}.*mend or remove it"):
        MetricsFile(tmp_path / "metrics.json", HEAD)


def test_a_sampler_that_is_measured_again_replaces_its_entry(tmp_path: Path):
    metrics = MetricsFile(tmp_path / "metrics.json", HEAD)
    for distance in (3.0, 2.0):
        metrics.put_sampler(sampler("fixed_small", 10, distance), [distance])
    metrics.put_sampler(sampler("fixed_small", 20, 1.0), [1.0])
    assert [entry["metrics"]["frechet_distance"] for entry in metrics.values["samples"]] == [2.0, 1.0]
    assert metrics.values["spectrum"]["generated"] == {"fixed_small, 10 steps": [2.0], "fixed_small, 20 steps": [1.0]}


def test_times_are_those_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    metrics = MetricsFile(tmp_path / "metrics.json", HEAD)
    ticks = iter([1000.0, 1002.5, 2000.0, 2001.5])
    monkeypatch.setattr("ddpm_cars.evaluation.metrics_file.time.perf_counter", lambda: next(ticks))
    for _ in range(2):
        with metrics.timed("sampling"):
            pass
    assert metrics.values["cost"]["seconds"] == {"sampling": 4.0}
