"""`import ddpm_cars`: quick, and enough for diffusers to find the classes of a saved pipeline."""

import importlib
from pathlib import Path

import pytest

import ddpm_cars
from tests.support.fresh_process import run_alone

GOLDEN = Path(__file__).parent / "golden" / "own_classes"


def test_every_public_name_is_there_and_no_other():
    for name in ddpm_cars.__all__:
        assert callable(getattr(ddpm_cars, name))
    with pytest.raises(AttributeError, match="'ddpm_cars' has no attribute 'calibrat'"):
        ddpm_cars.calibrat  # noqa: B018
    with pytest.raises(AttributeError, match=r"'ddpm_cars\.pipeline_ddpm_cars' has no attribute 'Pipeline'"):
        ddpm_cars.pipeline_ddpm_cars.Pipeline  # noqa: B018


def test_what_a_first_script_needs_is_at_hand():
    names = {"training": ["train"], "sampling": ["sample"], "evaluation": ["evaluate"]}
    names["config"] = ["TrainingConfig", "SampleConfig", "EvaluateConfig"]
    for wing, here in names.items():
        for name in here:
            assert getattr(ddpm_cars, name) is getattr(importlib.import_module(f"ddpm_cars.{wing}"), name)
    words = ", ".join(name for here in names.values() for name in here)
    run_alone(f"from ddpm_cars import {words}, DDPMCarsPipeline", GOLDEN)


def test_importing_the_package_is_enough_for_stock_to_load_a_pipeline_with_our_scheduler():
    run_alone(
        """
import sys
import ddpm_cars
assert "torch" not in sys.modules
from diffusers import DDPMPipeline
scheduler = DDPMPipeline.from_pretrained(sys.argv[1]).scheduler
assert type(scheduler) is ddpm_cars.DDPMCarsScheduler
import ddpm_cars.scheduling_ddpm_cars as module
assert module is sys.modules["ddpm_cars.scheduling_ddpm_cars"] is ddpm_cars.scheduling_ddpm_cars
assert type(scheduler) is module.DDPMCarsScheduler
""",
        GOLDEN,
    )


def test_threads_that_use_the_package_first_wait_for_each_other():
    run_alone(
        """
import threading
import ddpm_cars
start, got = threading.Barrier(8), []
def use():
    start.wait()
    from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler
    got.append(DDPMCarsScheduler)
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert got == [ddpm_cars.DDPMCarsScheduler] * 8
""",
        GOLDEN,
    )


def test_an_import_that_fails_fails_alike_the_next_time():
    run_alone(
        """
import sys
sys.modules["diffusers"] = None
import ddpm_cars
for _ in range(2):
    try:
        ddpm_cars.DDPMCarsScheduler
    except ImportError as error:
        assert "diffusers" in str(error)
    else:
        raise AssertionError
""",
        GOLDEN,
    )


def test_modules_that_have_not_run_answer_like_others():
    run_alone(
        """
import importlib
import ddpm_cars
assert {*ddpm_cars.__all__} <= {*dir(ddpm_cars)}
first = ddpm_cars.scheduling_ddpm_cars
importlib.reload(first)
kept = first.DDPMCarsScheduler
assert not hasattr(first, "nothing")
assert importlib.reload(ddpm_cars).DDPMCarsScheduler is kept
names = {}
exec("from ddpm_cars.pipeline_ddpm_cars import *", names)
assert names["DDPMCarsPipeline"] is ddpm_cars.DDPMCarsPipeline
assert "DDPMCarsPipeline" in dir(ddpm_cars.pipeline_ddpm_cars)
""",
        GOLDEN,
    )
