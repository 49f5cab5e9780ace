"""Betas in files of every kind, and what is said of files that hold none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cars.config.commands import ShowConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError

BETAS = np.linspace(0.001, 0.3, 30).tolist()


def config_with(betas: Any, **changes: Any) -> TrainingConfig:
    return TrainingConfig(train_data_dir="cars", trained_betas=betas, **changes)


def written(path: Path, content: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return str(path)


def test_betas_are_read_from_every_kind_of_file_and_kept_as_numbers(tmp_path: Path):
    np.save(tmp_path / "betas.npy", BETAS)
    lines = "# a schedule\n" + "\n".join(map(repr, BETAS)) + "\n\n"
    files = [
        str(tmp_path / "betas.npy"),
        written(tmp_path / "betas.json", json.dumps(BETAS)),
        written(tmp_path / "betas.txt", lines),
        written(tmp_path / "betas", b"\xef\xbb\xbf" + "\r\n".join(map(repr, BETAS)).encode()),
    ]
    for given in (*files, Path(files[0]), BETAS, tuple(BETAS)):
        config = config_with(given)
        assert config.trained_betas == tuple(BETAS)
        assert config.num_train_timesteps == 30
    assert ShowConfig(train_data_dir="cars", trained_betas=files[1]).trained_betas == tuple(BETAS)
    assert config_with(BETAS, num_train_timesteps=30) == config
    settings = written(tmp_path / "run.yaml", f"train_data_dir: cars\ntrained_betas: {BETAS}\n")
    assert TrainingConfig.from_yaml(settings) == config


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.txt", "0.1\n0.2\nx\n", r"trained_betas .*b\.txt, line 3: x is no number; write one a line"),
        ("b.txt", "0.1, 0.2", r"b\.txt, line 1: 0\.1, 0\.2 is no number"),
        ("b.txt", "\n# nothing\n", r"b\.txt holds no betas"),
        ("b.txt", "0.1\n1.5\n0.2", r"b\.txt: beta 2 of 3 is 1\.5; it must be inside \(0, 1\)"),
        ("b.txt", "0.1\nnan\n0.2", r"beta 2 of 3 is nan; it must be inside"),
        ("b.txt", "0.1\n1\n0.2", "beta 2 of 3 is 1; it must be inside"),
        ("b.txt", b"\xff\xfe\x00", r"b\.txt is neither text nor a \.npy file"),
        ("b.json", '{"betas": [0.1]}', r"b\.json holds something else than a list of numbers"),
        ("b.json", "[0.1, true]", r"b\.json holds something else than a list of numbers"),
        ("b.json", "[0.1, ", r"b\.json cannot be read as JSON"),
        ("b.npy", b"no array", r"b\.npy is no array .*; save the betas with numpy\.save"),
        ("b.npy", np.ones((2, 3)), r"b\.npy is an array of float64, shape \(2, 3\)"),
        ("b.npy", np.array([{"a": 1}], dtype=object), r"b\.npy is no array .*allow_pickle"),
        ("none", None, r"trained_betas .*none cannot be read \(No such file"),
    ],
)
def test_a_file_without_betas_is_one_line(name: str, content: Any, message: str, tmp_path: Path):
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        written(path, content)
    with pytest.raises(UserError, match=message):
        config_with(str(path))


def test_two_schedules_are_refused():
    for name, value in (("beta_schedule", "sigmoid"), ("beta_end", 0.5), ("scale_betas_for_timesteps", True)):
        with pytest.raises(UserError, match=rf"^trained_betas and {name} {value} are two noise schedules"):
            config_with(BETAS, **{name: value})
    with pytest.raises(
        UserError, match="trained_betas has 30 betas and num_train_timesteps is 40; leave num_train_ti"
    ):
        config_with(BETAS, num_train_timesteps=40)
    assert config_with([*BETAS, 1.0], prediction_type="v_prediction").num_train_timesteps == 31
    with pytest.raises(UserError, match="num_inference_steps is 50; it cannot exceed num_train_timesteps, 30"):
        config_with(BETAS, num_inference_steps=50)


def test_betas_that_end_at_zero_snr_do_not_go_with_epsilon():
    with pytest.raises(UserError, match="epsilon prediction"):
        config_with([*BETAS, 1.0])


def test_an_offset_does_not_go_with_a_learned_variance():
    assert config_with(None, noise_offset=0.1).noise_offset == 0.1
    with pytest.raises(UserError, match=r"noise_offset is 0\.1 and variance_type is learned_range"):
        config_with(None, noise_offset=0.1, variance_type="learned_range")
    with pytest.raises(UserError, match=r"noise_offset is 0\.0; it must be above 0"):
        config_with(None, noise_offset=0.0)
