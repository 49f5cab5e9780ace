"""The suite `startup`: fresh processes, compared within rounds, and the same network in both first images."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

from benchmarks import startup as suite
from ddpm_cars import DDPMCarsPipeline


def test_the_startup_suite_compares_within_rounds(monkeypatch: pytest.MonkeyPatch):
    # Other imports, to be quick.
    monkeypatch.setattr(suite, "STOCK_IMPORT", "import json")
    monkeypatch.setattr(suite, "OUR_IMPORT", "import wave")
    codes = [row["code"].split(":")[0] for row in suite.import_rows(1)]
    assert codes == ["stock", "ours", "ours, in a process that has imported stock"]
    stock, ours = suite.rows_of_times({"a": [1.0, 2.0, 4.0], "b": [1.5, 2.25, 3.0]}, "a")
    assert stock["seconds beyond stock"] == {"median": 0, "min": 0, "max": 0}
    assert ours["seconds beyond stock"] == {"median": 0.25, "min": -1, "max": 0.5}
    assert ours["to stock"] == {"median": 1.125, "min": 0.75, "max": 1.5}


def test_code_of_the_startup_suite_is_timed_in_a_process_of_its_own():
    seconds_of_code = suite.seconds_of_code
    assert seconds_of_code("import sys, time; assert 'torch' not in sys.modules; time.sleep(x)", "x = 0.2") >= 0.2
    with pytest.raises(subprocess.CalledProcessError):
        seconds_of_code("raise SystemExit(1)")


def test_both_first_images_of_the_startup_suite_are_of_the_same_network(tmp_path: Path):
    images = []
    codes = suite.first_images(tmp_path, 2)
    for (name, code), pipeline in zip(codes.items(), (DDPMPipeline, DDPMCarsPipeline), strict=True):
        names: dict = {}
        torch.manual_seed(0)
        exec(code, names)
        assert name.endswith(pipeline.__name__)
        assert type(names["pipeline"]) is pipeline
        assert len(names["pipeline"].scheduler.timesteps) == 2
        images.append(np.asarray(names["image"]).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
    assert images[0].std() > 10
