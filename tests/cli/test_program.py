"""`ddpm-cars` itself: it lists its commands, starts them, and helps who mistypes one."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_cars import __version__
from ddpm_cars.cli import main
from ddpm_cars.cli.commands import COMMANDS
from tests.support.fresh_process import run_alone

ROOT = Path(__file__).resolve().parents[2]


def test_the_overview_says_of_every_command_what_it_does(capsys: pytest.CaptureFixture[str]):
    main(["--help"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    said = {words[0]: words[1] for words in lines if words[0] in COMMANDS}
    assert [*said] == "train sample show calibrate evaluate push demo toy-cars".split() == [*COMMANDS]
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in said.values())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "there is no command trian (did you mean train?); ddpm-cars --help lists the commands"),
        (["push_to_hub"], "there is no command push_to_hub (did you mean push?); "),
        (["draw_toy_cars.py"], "there is no command draw_toy_cars.py (did you mean toy-cars?); "),
        (["xyz"], "there is no command xyz; "),
        (["generate"], "there is no command generate (did you mean sample?); "),
        (["test"], "there is no command test (did you mean evaluate?); "),
        (["gui"], "there is no command gui (did you mean demo?); "),
        (["fit"], "there is no command fit (did you mean train?); "),
        (["."], ". is a folder, not a command; give ddpm-cars train --train_data_dir .; "),
        (["--seed", "1"], "--seed comes before a command; write ddpm-cars COMMAND --seed; "),
        (["--print_completion", "cmd"], "--print_completion takes one of bash, "),
        (["train", "--seeed", "1"], "did you mean --seed?"),
        (["push", "folder"], "give REPOSITORY: ddpm-cars push FOLDER REPOSITORY"),
    ],
)
def test_a_mistake_is_one_line_with_a_cure(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    command = f"ddpm-cars {argv[0]}" if argv[:1] and argv[0] in COMMANDS else "ddpm-cars"
    assert line.startswith(f"{command}: error: ")
    assert words in line
    assert printed.out == ""


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]):
    main(["--help"])
    overview = capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", overview)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_its_settings_under_the_name_that_was_typed(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: ddpm-cars {name} ")


@pytest.mark.parametrize("argv", [["help", "sample"], ["sample", "help"], ["sample", "-h"], ["sample", "x", "--help"]])
def test_help_is_had_in_any_order(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main(argv)
    assert capsys.readouterr().out.startswith("usage: ddpm-cars sample --pretrained_model_name_or_path FOLDER ")


def test_help_alone_is_the_overview(capsys: pytest.CaptureFixture[str]):
    main(["help"])
    assert capsys.readouterr().out.startswith("usage: ddpm-cars COMMAND ")


def test_every_command_has_its_script_in_a_checkout():
    assert {command.run.__name__ for command in COMMANDS.values()} == {
        path.stem for path in (ROOT / "scripts").glob("*.py")
    }


def test_a_command_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ["--num_train_images", "1", "--num_test_images", "1", "--resolution", "8"]
    main(["toy-cars", "--output_dir", str(tmp_path / "cars"), *sizes])
    assert capsys.readouterr().out == f"toy cars: {tmp_path / 'cars'}\n"


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]):
    main(["--version"])
    assert capsys.readouterr().out == f"ddpm-cars {__version__}\n"


def test_help_and_mistakes_do_not_wait_for_torch(tmp_path: Path):
    run_alone(
        f"""
import sys
from ddpm_cars.cli import main
for argv in ([], ["--help"], *([name, "--help"] for name in {[*COMMANDS]}), ["train", "--config", "no"], ["sample"],
             ["train", "x"], ["train", "--train_data_dir", "nowhere"],
             ["train", "--train_data_dir", ".", "--preset", "small"],
             ["train", "--train_data_dir", ".", "--model_config", "nowhere"], ["calibrate", "nowhere"],
             ["calibrate", "--pretrained_model_name_or_path", "x"], ["push", ".", "cars"], ["evaluate", "a", "b"],
             ["sample", "--pretrained_model_name_or_path", "."], ["demo", "--pretrained_model_name_or_path", "./m"],
             ["sample", "--pretrained_model_name_or_path", "m", "--scheduler", "DDIM"]):
    try:
        main(argv)
    except SystemExit:
        pass
assert not {{"torch", "diffusers", "accelerate", "matplotlib"}} & sys.modules.keys()
""",
        tmp_path,
    )


def test_the_package_is_a_program_too(tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-m", "ddpm_cars", "sample", "--colour", "red"], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 2
    assert run.stderr.startswith("python -m ddpm_cars sample: error: ")
