"""Shells complete commands: bash itself is asked what it would offer."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ddpm_cars.cli import main
from ddpm_cars.cli.completion import SHELLS


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script for bash and a file."""
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch, (folder / "script").open("w") as file:
        patch.setattr("sys.stdout", file)
        main(["--print_completion", "bash"])
    (folder / "carpark.yaml").touch()
    return folder / "script"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tr", {"train"}),
        ("", {"train", "sample", "show", "calibrate", "evaluate", "push", "demo", "toy-cars"}),
        ("train --learn", {"--learning_rate"}),
        ("train --seed 1 --resi", {"--resize"}),
        ("train --preset t", {"tiny"}),
        ("train --optimizer ", {"adam", "adamw"}),
        ("train --use_ema --learn", {"--learning_rate"}),
        ("train --use_ema f", {"false"}),
        ("train --config car", {"cars64", "carpark.yaml"}),
        ("train --train_data_dir car", {"carpark.yaml"}),
        ("sample --class_labels sedan van --se", {"--seed"}),
        ("push car", {"carpark.yaml"}),
        ("push folder me/cars --over", {"--overwrite_card"}),
    ],
)
def test_bash_completes(words: str, offered: set[str], script: Path):
    line = shlex.join(["ddpm-cars", *words.split(" ")])
    code = f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words.split(' '))}; _shtab_ddpm_cars"
    run = subprocess.run(
        ["bash", "--norc", "-c", f'{code}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        cwd=script.parent,
        check=True,
    )
    assert set(run.stdout.split()) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_other_shells_have_a_script(shell: str, capsys: pytest.CaptureFixture[str]):
    main(["--print_completion", shell])
    printed = capsys.readouterr().out
    assert "learning_rate" in printed
    assert "ddpm-cars" in printed
