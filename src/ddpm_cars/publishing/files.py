"""The files of a repository on the Hub, collected from the folder of a model."""

import json
from pathlib import Path

import yaml
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from safetensors.torch import save

from ddpm_cars.config.commands import PushConfig
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import one_file_source
from ddpm_cars.publishing.card import CARD, eval_results, make_card
from ddpm_cars.publishing.space import space_files
from ddpm_cars.runs.saved_pipeline import WEIGHTS, ModelFolder, pipeline_texts
from ddpm_cars.runs.settings import dataset_id, public_settings

Files = dict[str, Path | bytes]  # Paths in the repository, each with the file or the content that goes there.


def model_files(folder: ModelFolder) -> Files:
    """Return the files with which a model loads anywhere. Raises UserError if no weights are in safetensors."""
    pipeline, files = folder.pipeline, folder.files
    if folder.are_weights_chosen:
        # Whoever loads what is published has no choice to make.
        tensors = {name: tensor.contiguous() for name, tensor in pipeline.unet.state_dict().items()}
        weights: Files = {f"unet/{SAFETENSORS_WEIGHTS_NAME}": save(tensors, metadata={"format": "pt"})}
    else:
        found = sorted(path for path in files.unet.glob(WEIGHTS) if ".safetensors" in path.name)
        if not found:
            raise UserError(f"{files.unet} has no weights in safetensors; save the pipeline again")
        weights = {path.relative_to(files.path).as_posix(): path for path in found}
    return {
        **{name: _json(text) for name, text in pipeline_texts(pipeline).items()},
        pipeline.code_name: one_file_source().encode(),
        **weights,
    }


def _json(text: str) -> bytes:
    # diffusers notes the path on this machine from which a component was loaded.
    values = {name: value for name, value in json.loads(text).items() if name != "_name_or_path"}
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def run_files(folder: ModelFolder) -> Files:
    """Return what the run and the evaluation have written for others, perhaps nothing."""
    there = folder.files
    whole = (there.samples, there.loss_plot, there.loss, there.validation, there.facts)
    files: Files = {path.name: path for path in whole if path.is_file()}
    if folder.settings is not None:
        files[there.settings.name] = yaml.safe_dump(public_settings(folder.settings), sort_keys=False).encode()
    if folder.metrics is not None and folder.metrics_path is not None:
        files[folder.metrics_path.name] = folder.metrics_path
        if (dataset := dataset_id(folder.settings or {})) is not None:
            # One file per dataset; only those of the Hub have an entry there.
            entries = [
                EvalResultEntry(dataset, str(result.metric_type), result.metric_value, notes=result.metric_name)
                for result in eval_results(folder)
            ]
            text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
            files[f".eval_results/{dataset.replace('/', '--')}.yaml"] = text.encode()
    return files


def collect(config: PushConfig, folder: ModelFolder, repo_id: str) -> Files:
    """Return all files of the repository OWNER/NAME, with the card."""
    settings = folder.settings or {}
    model_license = config.model_license or settings.get("model_license")
    if config.space:
        return space_files(model_files(folder), repo_id, model_license)
    data_license = config.data_license or settings.get("data_license")
    card = make_card(folder, repo_id.split("/")[-1], repo_id, model_license, data_license)
    return {**model_files(folder), **run_files(folder), CARD: card.encode()}


def describe(files: Files) -> str:
    """Return the list of what would be published, a line per file."""
    sizes = {name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in files.items()}
    lines = [f"{size:>12,}  {name}" for name, size in sorted(sizes.items())]
    return "\n".join([*lines, f"{sum(sizes.values()):>12,}  bytes in {len(sizes)} files"])


def content_of(data: Path | bytes) -> bytes:
    """Return what a file of `Files` holds."""
    return data if isinstance(data, bytes) else data.read_bytes()
