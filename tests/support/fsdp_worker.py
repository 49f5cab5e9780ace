"""scripts/train.py with a network spread over CPU processes, in the way that configs/accelerate/fsdp2.yaml asks for.

Accelerate takes FSDP up on accelerators only, so that it is told here, after it has looked.
"""

import os
from pathlib import Path

import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

import ddpm_cars.training.prepare
from ddpm_cars.cli.commands import train
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.training.run import Run
from ddpm_cars.training.state import TrainState

CONFIG = Path(__file__).parents[2] / "scripts" / "configs" / "accelerate" / "fsdp2.yaml"
make_accelerator = ddpm_cars.training.prepare.make_accelerator
begin = TrainState.__init__


def make_sharding_accelerator(config: TrainingConfig) -> Accelerator:
    """Build the accelerator of a run as if it had found GPUs."""
    accelerator = make_accelerator(config)
    asked = yaml.safe_load(CONFIG.read_text())["fsdp_config"]
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=asked["fsdp_version"],
        auto_wrap_policy=asked["fsdp_auto_wrap_policy"].lower(),
        transformer_cls_names_to_wrap=asked["fsdp_transformer_layer_cls_to_wrap"].split(","),
        reshard_after_forward=asked["fsdp_reshard_after_forward"],
        cpu_ram_efficient_loading=asked["fsdp_cpu_ram_efficient_loading"],
        state_dict_type=asked["fsdp_state_dict_type"],
    )
    # Whatever builds the state of an accelerator again copies it from that of the process.
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return accelerator


def begin_and_tell(state: TrainState, run: Run) -> None:
    """Say that the weights are really spread."""
    begin(state, run)
    parameters = list(state.unet.parameters())
    assert all(isinstance(p, DTensor) for p in parameters)
    here = sum(p.to_local().numel() for p in parameters)
    print(f"rank {os.environ['RANK']} holds {here} of {sum(p.numel() for p in parameters)} weights", flush=True)


ddpm_cars.training.prepare.make_accelerator = make_sharding_accelerator
TrainState.__init__ = begin_and_tell  # type: ignore[method-assign]
train()
