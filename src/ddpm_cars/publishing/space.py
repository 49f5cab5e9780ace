"""The demo as a Space of the Hub: the model, this package and a page that joins them."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import SpaceCardData

import ddpm_cars
from ddpm_cars.publishing.card import CARD, seal

_APP = '''"""The demo of the model in model/; the package beside it has the page."""

from ddpm_cars.runtime.threads import bound_spinning

bound_spinning()  # Before torch is imported, which the page does.

from ddpm_cars.demo import serve_folder

serve_folder("model")
'''

# What the modules behind the page import. Spaces install gradio themselves, in the version that the README names.
_REQUIREMENTS = (
    *("torch", "numpy", "diffusers", "accelerate", "safetensors", "filelock", "huggingface_hub"),
    *("datasets", "pyarrow", "fsspec", "pillow", "pyyaml", "matplotlib", "tqdm"),
)

_ABOUT = """
# {title}

Watch a denoising diffusion model draw images out of noise, add noise to an image of your own, and see the noise
schedule. Everything that the page needs is here: the model in `model/` and the package in `ddpm_cars/`.
"""


def space_files(model: dict[str, Path | bytes], repo_id: str, model_license: str | None) -> dict[str, Path | bytes]:
    """Return the files of the Space OWNER/NAME that shows a model, whose own files `model` has by their paths."""
    package = Path(str(ddpm_cars.__file__)).parent
    return {
        CARD: _readme(repo_id.split("/")[-1], model_license).encode(),
        "app.py": _APP.encode(),
        "requirements.txt": ("\n".join(_REQUIREMENTS) + "\n").encode(),
        **{f"ddpm_cars/{path.relative_to(package).as_posix()}": path for path in sorted(package.rglob("*.py"))},
        **{f"model/{name}": data for name, data in model.items()},
    }


def _readme(title: str, model_license: str | None) -> str:
    try:
        gradio: str | None = version("gradio")
    except PackageNotFoundError:
        # The Hub then takes its newest version.
        gradio = None
    metadata = SpaceCardData(
        title=title,
        emoji="🚗",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=gradio,
        app_file="app.py",
        license=model_license,
        tags=["ddpm-cars", "diffusers", "ddpm"],
    )
    return seal(f"---\n{metadata.to_yaml()}\n---\n{_ABOUT.format(title=title)}")
