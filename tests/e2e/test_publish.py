"""Publishing to a Hub that speaks the real protocol, and loading from it, each in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DModel

import ddpm_cars
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from tests.support.hub_server import LocalHub
from tests.support.training_helpers import Runs

HERE = Path(__file__).parent
T = 20
LOAD = """
import json, sys
import numpy as np
import torch

way, repo_id, folder = sys.argv[1:]
if way == "ours":
    from ddpm_cars import DDPMCarsPipeline as pipeline_class
else:
    sys.modules["ddpm_cars"] = None
    from diffusers import DiffusionPipeline as pipeline_class
code = {"custom_pipeline": repo_id, "trust_remote_code": True} if way == "code" else {}
pipe = pipeline_class.from_pretrained(repo_id, **code)
pipe.set_progress_bar_config(disable=True)
images = pipe(2, torch.Generator().manual_seed(0), num_inference_steps=20, output_type="np").images
np.save(folder + "/images.npy", images)
pipe.save_pretrained(folder + "/saved")
print(json.dumps([type(pipe).__name__, type(pipe.scheduler).__name__, pipe.scheduler.config.variance_type]))
"""


class Client:
    """Runs push_to_hub.py against a Hub, and is asked again and again."""

    def __init__(self, hub: LocalHub, home: Path):
        self.hub = hub
        self.process = subprocess.Popen(
            [sys.executable, str(HERE.parent / "support" / "hub_client.py")],
            env={**hub.environment(home), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def push(self, *arguments: object, code: int = 0, **environment: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        wanted = {"HF_TOKEN": self.hub.token, **environment}
        print(
            json.dumps({"arguments": [*map(str, arguments)], "environment": wanted}),
            file=self.process.stdin,
            flush=True,
        )
        answer = json.loads(self.process.stdout.readline())
        assert answer["code"] == code, answer
        for secret in {self.hub.token, wanted["HF_TOKEN"]}:
            assert secret not in answer["out"] + answer["err"]
        return answer

    def refused(self, *arguments: object, **environment: str) -> str:
        """Return the one line that a push ends with."""
        err = self.push(*arguments, code=1, **environment)["err"]
        assert "Traceback" not in err
        return err.replace("\r", "\n").strip().splitlines()[-1]

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def client(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(hub, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def pipe(make_unet: Callable[..., UNet2DModel]) -> DDPMCarsPipeline:
    unet = make_unet(seed=3)
    scheduler = DDPMCarsScheduler(T, beta_start=0.01, beta_end=0.5)
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ddpm_cars.calibrate(unet, images, scheduler, num_timesteps=5, num_images=16)
    return DDPMCarsPipeline(unet, DDPMCarsScheduler.from_config(scheduler.config, variance_type="analytic"))


@pytest.fixture(scope="module")
def folder(pipe: DDPMCarsPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "cars"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(hub: LocalHub, client: Client, folder: Path) -> str:
    """A model on the Hub: its id."""
    client.push(folder, "cars")
    return f"{hub.user}/cars"


def draw(pipe: DDPMCarsPipeline, **kwargs: Any) -> np.ndarray:
    return pipe(2, torch.Generator().manual_seed(0), output_type="np", **kwargs).images


def test_a_model_is_published_in_one_commit(hub: LocalHub, published: str, folder: Path):
    repo = hub.state.repo(published)
    assert not repo.private
    newest = repo.commits[-1]
    assert newest.summary == "Publish the model"
    assert {"README.md", "model_index.json", "pipeline.py"} <= set(repo.files)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert repo.files[weights] == (folder / weights).read_bytes()
    assert hub.state.count("POST", "/commit/main$") == 1


WAYS = {
    "ours": ["DDPMCarsPipeline", "DDPMCarsScheduler", "analytic"],
    "stock": ["DDPMPipeline", "DDPMScheduler", "fixed_small"],
    "code": ["DDPMCarsPipeline", "DDPMCarsScheduler", "analytic"],
}


@pytest.mark.parametrize("way", WAYS)
def test_it_loads_elsewhere_draws_the_same_and_can_be_published_again(
    hub: LocalHub, client: Client, published: str, pipe: DDPMCarsPipeline, tmp_path: Path, way: str
):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD, way, published, str(tmp_path)],
        env={**hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == WAYS[way]
    assert "not expected" not in run.stderr  # what diffusers says of settings that it does not know
    scheduler = DDPMCarsScheduler.from_config(pipe.scheduler.config, variance_type=WAYS[way][2])
    expected = draw(DDPMCarsPipeline(pipe.unet, scheduler))
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, rtol=0, atol=1e-5)

    client.push(tmp_path / "saved", f"again-{way}")
    again, first = hub.state.repo(f"{hub.user}/again-{way}").files, hub.state.repo(published).files
    assert {name: again[name] for name in first if name != "README.md"} == {
        name: data for name, data in first.items() if name != "README.md"
    }


def test_the_same_again_makes_no_commit(hub: LocalHub, client: Client, published: str, folder: Path):
    before = list(hub.state.repo(published).commits)
    answer = client.push(folder, published)
    assert "nothing has changed" in answer["out"]
    assert hub.state.repo(published).commits == before


def test_what_has_changed_is_replaced_and_what_is_gone_is_deleted(
    hub: LocalHub, client: Client, pipe: DDPMCarsPipeline, tmp_path: Path
):
    pipe.save_pretrained(tmp_path / "model", max_shard_size="10KB")
    client.push(tmp_path / "model", "shards")
    files = hub.state.repo(f"{hub.user}/shards").files
    assert sum(name.endswith(".safetensors") for name in files) > 1
    pipe.save_pretrained(tmp_path / "whole")
    client.push(tmp_path / "whole", "shards")
    assert [n for n in hub.state.repo(f"{hub.user}/shards").files if n.startswith("unet/")] == [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


def test_options_are_honoured(hub: LocalHub, client: Client, folder: Path):
    arguments = ["--private", "--revision", "draft", "--commit_message", "A first try", "--model_license", "mit"]
    client.push(folder, "hidden", *arguments)
    repo = hub.state.repo(f"{hub.user}/hidden")
    assert repo.private
    assert repo.branches["draft"].summary == "A first try"
    assert "README.md" not in repo.branches["main"].files
    assert yaml.safe_load(repo.branches["draft"].files["README.md"].decode().split("---")[1])["license"] == "mit"


@pytest.mark.parametrize("kind", ["model", "space"])
def test_what_is_to_be_private_is_not_shown_in_a_public_repository(
    hub: LocalHub, client: Client, folder: Path, kind: str
):
    arguments = [folder, f"open-{kind}", *(["--space"] if kind == "space" else [])]
    client.push(*arguments)
    repo = hub.state.repo(f"{hub.user}/open-{kind}", kind)
    before = (list(repo.commits), dict(repo.branches), hub.state.count("PUT", ""))
    for private, words in ((False, "is public"), (None, "may be public")):
        repo.private = private
        line = client.refused(*arguments, "--private", "--revision", "draft", "--commit_message", "Secret")
        assert f"{repo.repo_id} {words}" in line
        assert f"{hub.url}/{repo.url_path}/settings" in line
        assert (list(repo.commits), dict(repo.branches), hub.state.count("PUT", "")) == before
    # Once its owner has made it private, the same command publishes; without --private it stays as it is.
    repo.private = True
    client.push(*arguments, "--private", "--revision", "draft")
    assert "draft" in repo.branches
    assert "is private on the Hub, and stays so" in client.push(*arguments)["err"]
    assert repo.private


def test_a_card_that_somebody_has_edited_is_kept(hub: LocalHub, client: Client, folder: Path):
    repo_id = f"{hub.user}/edited"
    client.push(folder, repo_id)
    repo = hub.state.repo(repo_id)
    edited = repo.files["README.md"] + b"\nThese are my favourite cars.\n"
    blobs = dict(repo.branches["main"].blobs)
    blobs["README.md"] = type(blobs["README.md"])(edited, False)
    repo.add("main", "Say more", "", blobs)

    answer = client.push(folder, repo_id, "--model_license", "mit")
    assert "was kept" in answer["err"]
    assert hub.state.repo(repo_id).files["README.md"] == edited
    client.push(folder, repo_id, "--model_license", "mit", "--overwrite_card")
    card = hub.state.repo(repo_id).files["README.md"]
    assert b"favourite" not in card
    assert b"license: mit" in card
    # What this program has written itself it replaces.
    assert "kept" not in client.push(folder, repo_id, "--model_license", "apache-2.0")["err"]
    assert b"license: apache-2.0" in hub.state.repo(repo_id).files["README.md"]


FAULTS = {
    "token": ({"status": 401, "on": ("POST", "/api/repos/create"), "times": 1}, "hf auth login"),
    "forbidden": ({"status": 403, "on": ("POST", "/commit/"), "times": 1}, "may not write"),
    "broken": ({"status": 500, "on": ("POST", "/commit/"), "times": 3}, "the Hub answers 500"),
    "cut": ({"cut": "upload", "on": ("POST", "/commit/"), "times": 3}, "cannot be reached"),
    "gateway": ({"status": 502, "on": ("POST", "/validate-yaml"), "times": 3}, "the Hub"),
    "busy": ({"status": 429, "on": ("POST", "/api/repos/create"), "times": 3}, "wait a while"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_with_one_line_and_can_be_tried_again(
    hub: LocalHub, client: Client, make_unet: Callable[..., UNet2DModel], tmp_path: Path, fault: str
):
    # New weights each time: what the Hub has already is not uploaded again.
    unet = make_unet(seed=100 + list(FAULTS).index(fault))
    folder = tmp_path / "model"
    DDPMCarsPipeline(unet, DDPMCarsScheduler(T)).save_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    repo_id = f"{hub.user}/fault-{fault}"
    arrangement, words = FAULTS[fault]
    hub.fail(**arrangement)
    line = client.refused(folder, repo_id)
    # What may pass was tried as often as it should be, and what may not was not.
    assert hub.faults.unmet == 0
    assert line.startswith("push_to_hub.py: error: ")
    assert words in line
    assert str(folder) in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    client.push(folder, repo_id)
    assert "unet/diffusion_pytorch_model.safetensors" in hub.state.repo(repo_id).files


PASSING = {
    "server": {"status": 500, "on": ("POST", "/commit/")},
    "busy": {"status": 429, "on": ("POST", "/commit/")},
    "lost answer": {"cut": "download", "on": ("POST", "/commit/")},
    "cut upload": {"cut": "upload", "on": ("PUT", "")},
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_does_not_end_a_push(
    hub: LocalHub, client: Client, make_unet: Callable[..., UNet2DModel], tmp_path: Path, fault: str
):
    DDPMCarsPipeline(make_unet(seed=200 + list(PASSING).index(fault)), DDPMCarsScheduler(T)).save_pretrained(tmp_path)
    hub.fail(**PASSING[fault])
    repo_id = f"{hub.user}/passing-{fault.replace(' ', '-')}"
    client.push(tmp_path, repo_id)
    assert hub.faults.unmet == 0
    repo = hub.state.repo(repo_id)
    assert repo.files["pipeline.py"] == (tmp_path / "pipeline.py").read_bytes()
    assert [commit.summary for commit in repo.commits].count("Publish the model") == 1


def test_a_wrong_token_is_refused(hub: LocalHub, client: Client, folder: Path):
    assert "hf auth login" in client.refused(folder, "cars", HF_TOKEN="hf_" + "x" * 20)


def test_training_publishes_what_it_has_trained(hub: LocalHub, tiny_unet_config: dict, tmp_path: Path):
    runs = Runs(tmp_path, tiny_unet_config)
    runs.environment = hub.environment(tmp_path / "home") | {
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    options = {"push_to_hub": "true", "hub_private_repo": "true", "model_license": "mit"}
    hub.fail(status=403, on=("POST", "/commit/"))
    failed = runs.train_apart("trained", code=1, **options)
    assert "may not write" in runs.last_line(failed)
    # Nothing is lost: the model is there, and the same command publishes it.
    assert (tmp_path / "trained" / "model_index.json").exists()
    done = runs.train_apart("trained", **options)
    assert "published: " in done.stdout
    repo = hub.state.repo(f"{hub.user}/trained")
    assert repo.private
    assert {"training.json", "config.yaml", "samples.png", "loss.png"} <= set(repo.files)
    card = repo.files["README.md"].decode()
    assert "| Optimiser steps | 12 |" in card
    assert "24 images of cars" in card or "images of cars" in card
    everything = b"".join(data for name, data in repo.files.items() if not name.endswith(".safetensors"))
    assert str(tmp_path).encode() not in everything
    assert hub.token.encode() not in everything
    assert "optimizer" not in " ".join(repo.files)

    repo.private = False
    for words, environment in (("hf auth login", {"HF_TOKEN": "hf_" + "x" * 20}), (f"{repo.repo_id} is public", {})):
        runs.environment |= environment
        refused = runs.train_apart("untrained", code=2, hub_model_id="trained", **options)
        runs.environment |= {"HF_TOKEN": hub.token}
        assert words in runs.last_line(refused)
        assert not (tmp_path / "untrained").exists()


def test_the_demo_is_published_as_a_space_that_runs_by_itself(
    hub: LocalHub, client: Client, folder: Path, tmp_path: Path
):
    client.push(folder, "cars-demo", "--space")
    repo = hub.state.repo(f"{hub.user}/cars-demo", "space")
    assert repo.sdk == "gradio"
    for name, data in repo.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    script = (
        "import sys; sys.path.insert(0, '.'); import ddpm_cars; from pathlib import Path; import gradio;"
        "assert Path(ddpm_cars.__file__).parent.resolve() == Path('ddpm_cars').resolve();"
        "gradio.Blocks.launch = lambda self, *a, **k: sys.exit(print('served', len(self.blocks))); import app"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "served" in run.stdout


def test_a_revision_and_a_variant_are_loaded_or_told_with_what_there_is(hub: LocalHub, published: str, tmp_path: Path):
    def draw_one(*flags: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "ddpm_cars", "sample", "--pretrained_model_name_or_path", published]
        return subprocess.run(
            [*command, "--num_images", "1", "--num_inference_steps", "5", "--output_dir", "drawn", *flags],
            env={**hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    drawn = draw_one("--revision", "main")
    assert drawn.returncode == 0, drawn.stderr
    assert json.loads((tmp_path / "drawn" / "sampling.json").read_text())["model"] == f"{published}, revision main"
    for flags, words in (
        (("--revision", "nowhere"), "(it has no revision nowhere)"),
        (("--variant", "fp16"), f"{published} has no variant fp16; it has weights without a variant"),
    ):
        refused = draw_one(*flags)
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1].endswith(words)
