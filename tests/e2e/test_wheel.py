"""A wheel, built from the source archive and installed where there is no checkout: its command trains and samples."""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into, beside the packages of these tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder / "dist"), "--target"]
    subprocess.run([*build, "sdist"], cwd=ROOT, check=True, capture_output=True)
    (archive,) = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    subprocess.run([*build, "wheel"], cwd=source, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder / "site"


def test_an_index_can_show_what_the_wheel_says_of_itself(installed: Path):
    (information,) = installed.glob("*.dist-info")
    metadata = Distribution.at(information).metadata
    assert metadata["Author"] == "The ddpm_cars authors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert text.startswith("# ddpm-cars\n")
    assert "](docs/" not in text


def test_a_wheel_trains_and_samples_without_a_checkout(installed: Path, tmp_path: Path):
    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    program = str(installed / "bin" / "ddpm-cars")
    found = run(sys.executable, "-c", "import ddpm_cars; print(ddpm_cars.__file__)")
    assert found.strip() == str(installed / "ddpm_cars" / "__init__.py")
    assert "  train " in run(program, "--help")
    assert "cars64" in run(program, "train", "--help")
    sizes = ["--num_train_images", "4", "--num_test_images", "0", "--resolution", "16"]
    run(program, "toy-cars", "--output_dir", "cars", *sizes)
    # The recipe names a network that lies beside it.
    few = ["--train_batch_size", "2", "--max_train_steps", "2", "--num_inference_steps", "2", "--eval_batch_size", "1"]
    settings = ["--train_data_dir", "cars", "--mixed_precision", "no", "--cache_dir", "cache", *few]
    assert "model: model" in run(program, "train", "--config", "study16", "--output_dir", "model", *settings)
    model = ["--pretrained_model_name_or_path", "model", "--num_images", "1", "--num_inference_steps", "2"]
    run(program, "sample", *model, "--output_dir", "samples")
    assert (tmp_path / "samples" / "00000.png").exists()
    # The template of the card and the files of the demo are in the wheel too.
    push = "from ddpm_cars.cli import push_to_hub as push; push(['model', 'me/cars', '--dry_run'{}])"
    listed = run(sys.executable, "-c", "\n".join([push.format(""), push.format(", '--space'")]))
    assert "README.md" in listed
    assert "app.py" in listed
