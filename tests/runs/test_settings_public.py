"""The settings of a run without the paths of a machine."""

from pathlib import Path

from ddpm_cars.runs.settings import dataset_id, public_settings


def test_paths_of_the_machine_are_cut_off(tmp_path: Path):
    shards = tmp_path / "shards"
    shards.mkdir()
    settings = {"output_dir": "/a/b", "cache_dir": "/c", "learning_rate": 0.1, "model_config": "/d/unet.json"}
    public = public_settings({**settings, "train_data_dir": "/e/f", "dataset_name": None, "push_to_hub": True})
    assert public == {
        "learning_rate": 0.1,
        "model_config": "unet.json",
        "train_data_dir": "f",
        "dataset_name": None,
    }
    assert public_settings({"dataset_name": str(shards)})["dataset_name"] == "shards"
    assert public_settings({"dataset_name": "somebody/cars"})["dataset_name"] == "somebody/cars"
    assert dataset_id({"dataset_name": str(shards)}) is None
    assert dataset_id({"dataset_name": "somebody/cars"}) == "somebody/cars"
    assert dataset_id({}) is None
