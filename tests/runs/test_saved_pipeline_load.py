"""Folders and names that are no saved pipeline."""

from pathlib import Path

import pytest

from ddpm_cars.errors import UserError
from ddpm_cars.runs.saved_pipeline import load_pipeline


def test_a_name_that_is_neither_folder_nor_model_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("runs/nosuch", "nosuch", str(tmp_path / "a" / "b")):
        with pytest.raises(UserError, match=rf"^there is no folder {name}, and .* Hub \(.+\)$") as failed:
            load_pipeline(name)
        assert "stacktrace" not in str(failed.value)
        assert "local_files_only" not in str(failed.value)
        assert len(str(failed.value)) < 250


def test_a_folder_without_a_pipeline_is_told_from_an_unfinished_run(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no saved pipeline: there is no model_index.json$"):
        load_pipeline(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(
        UserError, match=r"is a run that has not finished .*same training command continues it, .* ends it there$"
    ):
        load_pipeline(str(tmp_path))
