"""TODO src/ddpm_cars/publishing/files.py."""

import json
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from ddpm_cars.config.commands import PushConfig
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import one_file_source
from ddpm_cars.publishing.card import eval_results, make_card
from ddpm_cars.publishing.space import space_files
from ddpm_cars.runs.public_settings import dataset_id, public_settings
from ddpm_cars.runs.run_folder import ModelFolder

# Paths in the repository, with the file or the content that goes there.
Files = dict[str, Path | bytes]

_CARD = "README.md"

_WHOLE_FILES = ("samples.png", "loss.png", "loss.json", "validation.json", "training.json")


def model_files(folder: ModelFolder) -> Files:
    """Return what makes a model load, in the format in which it loads anywhere: index, code, network, scheduler.

    Raises:
        UserError: If there are no weights in safetensors.
    """
    pipeline, unet = folder.pipeline, folder.path / "unet"
    weights = sorted(unet.glob("diffusion_pytorch_model*.safetensors*"))
    if not weights:
        raise UserError(f"{unet} has no weights in safetensors; save the pipeline again with safe_serialization")
    return {
        "model_index.json": _json(pipeline.to_json_string()),
        "pipeline.py": one_file_source().encode(),
        "unet/config.json": _json((unet / "config.json").read_text(encoding="utf-8")),
        **{f"unet/{path.name}": path for path in weights},
        "scheduler/scheduler_config.json": _json(pipeline.scheduler.to_json_string()),
    }


def _json(text: str) -> bytes:
    # diffusers notes where a component was loaded from, which is a path of this machine.
    values = {name: value for name, value in json.loads(text).items() if name != "_name_or_path"}
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def run_files(folder: ModelFolder) -> Files:
    """Return what the run and the evaluation have left for others; there may be nothing."""
    found = {name: folder.find(name) for name in _WHOLE_FILES}
    files: Files = {name: path for name, path in found.items() if path is not None}
    if folder.settings is not None:
        files["config.yaml"] = yaml.safe_dump(public_settings(folder.settings), sort_keys=False).encode()
    if folder.metrics is not None:
        files["metrics.json"] = folder.path / "evaluation" / "metrics.json"
        dataset = dataset_id(folder.settings or {})
        if dataset is not None:
            # One file per dataset; only those of the Hub have an entry there.
            entries = [
                EvalResultEntry(dataset, str(result.metric_type), result.metric_value, notes=result.metric_name)
                for result in eval_results(folder)
            ]
            text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
            files[f".eval_results/{dataset.replace('/', '--')}.yaml"] = text.encode()
    return files


def collect(config: PushConfig, folder: ModelFolder, repo_id: str) -> Files:
    """Return everything that is published, with the card.

    Args:
        config: What to publish.
        folder: The model.
        repo_id: Where it goes, OWNER/NAME.
    """
    settings = folder.settings or {}
    model_license = config.model_license or settings.get("model_license")
    if config.space:
        return space_files(model_files(folder), repo_id, model_license)
    data_license = config.data_license or settings.get("data_license")
    card = make_card(folder, repo_id.split("/")[-1], repo_id, model_license, data_license)
    return {**model_files(folder), **run_files(folder), _CARD: card.encode()}


def describe(files: Files) -> str:
    """Return the list of what would be published, a line per file."""
    sizes = {name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in files.items()}
    lines = [f"{size:>12,}  {name}" for name, size in sorted(sizes.items())]
    return "\n".join([*lines, f"{sum(sizes.values()):>12,}  bytes in {len(sizes)} files"])


def content_of(data: Path | bytes) -> bytes:
    """Return what a file of `Files` holds."""
    return data if isinstance(data, bytes) else data.read_bytes()
