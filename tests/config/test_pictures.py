"""The settings of images: which values are black and white."""

from pathlib import Path

import pytest

from ddpm_cars.config.commands import ShowConfig
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.errors import UserError


@pytest.mark.parametrize("value_range", [(0, 4095), [-1024, 3071], (0.0, 0.5), None])
def test_a_range_is_two_numbers(value_range: object):
    config = ImageConfig(train_data_dir="images", value_range=value_range)
    assert config.value_range == (None if value_range is None else tuple(map(float, value_range)))


@pytest.mark.parametrize(
    ("value_range", "message"),
    [
        ((4095, 0), "value_range is 4095 0; give two numbers, the lower one first, such as 0 4095"),
        ((5, 5), "value_range is 5 5; give two numbers"),
        ((1,), "value_range is 1; give two numbers"),
        ((0, 1, 2), "value_range is 0 1 2; give two numbers"),
        ((0, float("inf")), "value_range is 0 inf; give two numbers"),
        ((-1e308, 1e308), r"value_range is -1e\+308 1e\+308; give two numbers"),
        ((float("nan"), 1), "value_range is nan 1; give two numbers"),
        ("auto", "value_range is auto; it must be a list in which every item is a number"),
    ],
)
def test_what_is_no_range_is_refused(value_range: object, message: str):
    with pytest.raises(UserError, match=message):
        ImageConfig(train_data_dir="images", value_range=value_range)


@pytest.mark.parametrize("text", ["value_range: [-1024, 3071]", "value_range:\n- -1024.0\n- 3071.0"])
def test_a_file_holds_a_range(tmp_path: Path, text: str):
    (tmp_path / "settings.yaml").write_text(f"train_data_dir: images\n{text}\n")
    assert ShowConfig.from_yaml(tmp_path / "settings.yaml").value_range == (-1024, 3071)
