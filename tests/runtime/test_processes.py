"""What processes do together, in one process and in two."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from ddpm_cars.errors import RunError, UserError
from ddpm_cars.runtime.processes import gathered, on_main, together
from tests.support.fresh_process import run_in_two_processes

TWO = """
import sys
from accelerate import PartialState
from ddpm_cars.errors import RunError, UserError
from ddpm_cars.runtime.console import is_main_process, say
from ddpm_cars.runtime.processes import gathered, on_main, together

state = PartialState(cpu=True)
index, is_main = state.process_index, state.is_main_process
assert (state.num_processes, is_main_process()) == (2, is_main)
assert together(lambda: index) == [0, 1]
assert together(lambda: index, here=not is_main) == [None, 1]
assert on_main(lambda: f"of {index}") == "of 0"
assert gathered(3, list) == [[0, 1], [2]]
assert gathered(1, list) == [[0]]

def fail(error):
    raise error

for error in (UserError("mine"), RunError("ours"), OSError(28, "full", "a.txt")):
    try:
        together(lambda: fail(error), here=not is_main)
    except type(error) as raised:
        assert (str(raised), raised.args) == (str(error), error.args)
    else:
        raise AssertionError(error)
say("spoken once")
state.destroy_process_group()
"""


def test_two_processes_share_results_and_errors(tmp_path: Path):
    assert run_in_two_processes(TWO, tmp_path).count("spoken once") == 1


def test_one_process_needs_no_other(fresh_accelerate: None):
    Accelerator(cpu=True)
    assert gathered(5, list) == [[0, 1, 2, 3, 4]]
    assert gathered(0, list) == []
    assert on_main(lambda: {"a": 1}) == {"a": 1}
    assert together(lambda: 1, here=False) == [None]
    for error in (UserError("mine"), RunError("ours"), OSError("full")):
        with pytest.raises(type(error), match=str(error)):
            on_main(lambda failure=error: (_ for _ in ()).throw(failure))
