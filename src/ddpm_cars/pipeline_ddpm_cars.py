"""Unconditional and class-conditional image generation with a `UNet2DModel`.

Joined with `scheduling_ddpm_cars` and `portable` it travels with models: it needs torch, numpy and diffusers only.
"""

import copy
import inspect
import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any, Optional, get_args

import diffusers
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ddpm_cars.portable.compiled_network import CapturedFunction, CompiledNetwork, compiler_options
from ddpm_cars.portable.denoising import (
    DenoisingState,
    OutputType,
    as_images,
    checked_generators,
    checked_number,
    class_tensor,
    classes_of_names,
    guided_output,
    label_ids,
    sample_shape,
    samples_with_learned_variance,
)
from ddpm_cars.portable.finite_steps import FiniteSteps, NonFiniteError, non_finite_output
from ddpm_cars.portable.init_noise import match_init_noise, noised_start, seed_noise_of_steps
from ddpm_cars.portable.one_file import one_file_source

__all__ = [
    "CapturedFunction",
    "DDPMCarsPipeline",
    "DenoisingState",
    "NonFiniteError",
    "OutputType",
    "as_images",
    "classes_of_names",
    "compiler_options",
    "match_init_noise",
    "noised_start",
    "non_finite_output",
    "one_file_source",
    "sample_shape",
    "samples_with_learned_variance",
]


def _restored(scheduler: Any) -> Any:
    """Return the scheduler that a DDPMScheduler of diffusers stands in for, if its class is imported."""
    saved = scheduler.config.get("_ddpm_cars")
    if saved is None or type(scheduler) is not DDPMScheduler:
        return scheduler
    module, _, name = saved["class"].rpartition(".")
    # A file must not make this import anything. Diffusers, too, takes only classes that are imported already.
    own_class: Any = globals().get(name) or getattr(sys.modules.get(module), name, None)
    is_scheduler = isinstance(own_class, type) and issubclass(own_class, SchedulerMixin)
    return own_class.from_config(scheduler.config) if is_scheduler else scheduler


class DDPMCarsPipeline(DiffusionPipeline):
    """Draw images from noise: x_T ~ N(0, I), then one scheduler step per timestep (Ho et al. 2020, algorithm 2).

    Where the scheduler's config holds the moments of the data (`ddpm_cars.fit_init_noise`), x_T is drawn from q(x_T).

    A saved pipeline names `DDPMPipeline` and `DDPMScheduler` of diffusers, so that it loads without this package; the
    constructor turns such a scheduler back into the `DDPMCarsScheduler` that it was. `pipe.scheduler = ...` takes any
    scheduler as it is.

    The image is kept in float32 between the steps whatever the dtype of the UNet, so a bfloat16 and a float32 model
    start from the same noise and differ only by what the network rounds.

    Args:
        unet: The network that predicts eps, x_0 or v. `sample_size` in its config fixes the image size. With
            `num_class_embeds` one above the number of names, its last class is "no class", and it can be guided.
        scheduler: `DDPMCarsScheduler` or any other scheduler of the Karras family.
        id2label: Names of the classes 0, 1, ... of the UNet. One name may list several with commas between.

    Attributes:
        labels: The class of every name. A short name that several classes have is not among them.
        fast_network: The network that `enable_fast_sampling` compiles, None while fast sampling is off.

    Raises:
        ValueError: If the keys of `id2label` are not 0, 1, ...
    """

    model_cpu_offload_seq = "unet"
    # Diffusers gives the file of a pipeline's code this name.
    code_name = "pipeline.py"
    _callback_tensor_inputs = ["latents", "pred_original_sample"]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        # JSON, which a saved pipeline comes from, knows no integer keys. Diffusers 0.36 cannot read `X | None`.
        id2label: Optional[dict[int, str] | dict[str, str]] = None,  # noqa: UP045
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=_restored(scheduler))
        self.labels: dict[str, int] = {}
        self.fast_network: CompiledNetwork | None = None
        self._interrupt = False
        if id2label is not None:
            names = {int(i): name for i, name in id2label.items()}
            self.labels = {name: ids[0] for name, ids in classes_of_names(names).items() if len(ids) == 1}
            # Only where there are names: other pipelines warn of an entry that they do not know.
            self.register_to_config(id2label=names)

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, with `pipeline.py`, the code that loads the folder where the package is missing.

        Args:
            save_directory: The folder; it is made if it does not exist.
            args: As `DiffusionPipeline.save_pretrained` takes them.
            kwargs: As `DiffusionPipeline.save_pretrained` takes them.
        """
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / self.code_name).write_text(one_file_source(), encoding="utf-8")
        super().save_pretrained(save_directory, *args, **kwargs)

    def to_json_string(self) -> str:
        """Return the index of a saved folder; it names classes of diffusers, which load it without this package."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = "DDPMPipeline"
        saved_class = json.loads(self.scheduler.to_json_string())["_class_name"]
        if hasattr(diffusers, saved_class):
            index["scheduler"] = ["diffusers", saved_class]
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        # The index would show the classes that it is saved as.
        return f"{type(self).__name__} {super().to_json_string()}"

    def enable_fast_sampling(self, max_batch_size: int = 16) -> None:
        """Compile the network, which pays for many images or steps: the first call takes up to minutes longer.

        The same seeds give the same images, up to rounding. The dtype stays that of the UNet, and
        `pipe.to(torch.bfloat16)` makes it faster still. If nothing can be compiled, a warning says so and the network
        runs as it is.

        Args:
            max_batch_size: 1 or more. Larger batches run in parts of this size, and smaller ones are filled up to the
                next power of two, so that few programs are compiled.

        Raises:
            ValueError: If `max_batch_size` is below 1.
        """
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size is {max_batch_size}; it must be 1 or more.")
        self.unet.to(memory_format=torch.channels_last)
        self.fast_network = CompiledNetwork(self.unet, max_batch_size)

    def disable_fast_sampling(self) -> None:
        """Undo `enable_fast_sampling`."""
        if self.fast_network is not None:
            self.fast_network.unet.to(memory_format=torch.contiguous_format)
            self.fast_network = None

    @property
    def null_class(self) -> int | None:
        """The class that stands for no class at all (Ho & Salimans 2022), None if the UNet has not learned one."""
        num_names = len(self.config.get("id2label") or ())
        has_one_more = num_names > 0 and self.unet.config.num_class_embeds == num_names + 1
        return num_names if has_one_more else None

    @property
    def interrupt(self) -> bool:
        """Whether a callback has ended sampling by `pipe._interrupt = True`, as in pipelines of diffusers."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """The number of denoising steps of the current call, by which callbacks know the last one."""
        return len(self.scheduler.timesteps)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, torch.Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        latents: torch.Tensor | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images, with classifier-free guidance where `guidance_scale` is not 1.

        The prediction is then eps_none + guidance_scale (eps_class - eps_none) (Ho & Salimans 2022, arXiv:2207.12598,
        eq. 6, whose w is guidance_scale - 1), and alike for x_0 and v; a learned variance is that of the class.

        Args:
            batch_size: The number of images, 1 or more.
            generator: The source of the noise. With a sequence of one generator per image, no image depends on
                the others in its batch.
            num_inference_steps: The number of denoising steps; None means every timestep of training.
            output_type: "pil" for PIL images, "np" for a float32 array (batch, height, width, channels) in [0, 1],
                "pt" for a float32 tensor (batch, channels, height, width) in [0, 1], "raw" for that in [-1, 1].
                "numpy" and "latent" are older names of "np" and "raw" in diffusers.
            return_dict: Whether to return an `ImagePipelineOutput`, else a tuple of its one value.
            callback_on_step_end: Called after every step as `callback(pipe, step_index, timestep, tensors)`. It may
                return a dict with "latents", which then replaces x_s. No step follows after `pipe._interrupt = True`.
            callback_on_step_end_tensor_inputs: The tensors that the callback is given: "latents" (x_s) and
                "pred_original_sample" (x_0_hat, None if the scheduler does not report it).
            class_labels: Integers in [0, num_class_embeds) or names, one per image or one for all, for UNets with
                classes. If the last class is "no class", None stands for it, and labels end before it.
            guidance_scale: How far to go from no class to the class, any finite number; 1 is the class alone, at half
                the work. Others need a UNet whose last class is "no class".
            latents: x_T, floating point (batch_size, channels, height, width), in place of noise from the generator.
                It is taken as it is, also where the scheduler's config holds the moments of the data; schedulers that
                compute with x_0 + sigma eps multiply it by their `init_noise_sigma`, as everywhere in diffusers. The
                images have its height and width, which may differ from `sample_size` if the UNet can halve them.

        Returns:
            `images`, as `output_type` says.

        Raises:
            ValueError: If an argument is out of its range or does not fit the UNet.
            TypeError: If a number is not whole, `generator` or `latents` is something else, or the first argument is
                a text: this model draws without words.
            NonFiniteError: If a model output or a sample is not finite; it names the first step. It is a
                FloatingPointError.
        """
        if isinstance(batch_size, str):
            raise TypeError(f"This model draws without words, and batch_size, a number of images, is {batch_size!r}.")
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type is {output_type!r}; choose one of {get_args(OutputType)}.")
        if output_type == "pil" and (num_channels := self.unet.config.in_channels) not in (1, 3, 4):
            raise ValueError(f"PIL has no images of {num_channels} channels; take output_type 'np' or 'pt'.")
        known = self._callback_tensor_inputs
        if unknown := set(callback_on_step_end_tensor_inputs) - set(known):
            raise ValueError(f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; choose from {known}.")
        self._interrupt = False
        arguments = (batch_size, generator, num_inference_steps, class_labels, guidance_scale, latents)
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        # Callbacks look at the scheduler of the pipeline, so this is no copy of it.
        states = self._denoise(self.scheduler, *arguments, *callback)
        with closing(states):
            for state in states:
                x_t = state.sample
                if self.interrupt:
                    break
        images = as_images(x_t, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def denoise(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        latents: torch.Tensor | None = None,
    ) -> Generator[DenoisingState, None, None]:
        """Draw images step by step, from the arguments of a call; the last sample is that of the call.

        A step is computed when its state is asked for, and the generator may be closed at any time. Each generator
        works on a copy of the scheduler, so several may be read in turn. Gradients are off within the steps only.

        Returns:
            A generator of `DenoisingState`: first x_T, then where every step leads to.

        Raises:
            ValueError: At once, if an argument is out of its range or does not fit the UNet.
            TypeError: At once, if a number is not whole, or `generator` or `latents` is something else.
            NonFiniteError: In place of a state, the last one at the latest, if a model output or a sample up to it is
                not finite. On a GPU, looking for that in every step would make the steps wait.
        """
        config = self.scheduler.config
        scheduler = copy.deepcopy(self.scheduler, {id(config): config})
        arguments = (batch_size, generator, num_inference_steps, class_labels, guidance_scale, latents)
        return self._denoise(scheduler, *arguments)

    def _denoise(
        self,
        scheduler: Any,
        batch_size: int,
        generator: Any,
        num_inference_steps: int | None,
        class_labels: Any,
        guidance_scale: float,
        latents: torch.Tensor | None,
        callback: Callable[..., dict[str, torch.Tensor] | None] | None = None,
        callback_tensor_inputs: Sequence[str] = (),
    ) -> Generator[DenoisingState, None, None]:
        """Check the arguments, and return a generator that has not begun to work."""
        if num_inference_steps is None:
            num_inference_steps = scheduler.config.num_train_timesteps
        batch_size = checked_number("batch_size", batch_size)
        num_inference_steps = checked_number("num_inference_steps", num_inference_steps)
        generator = checked_generators(generator, batch_size)
        labels = self.prepare_class_labels(class_labels, batch_size, guidance_scale)
        shape = sample_shape(self.unet.config, batch_size, latents)
        # The timesteps stay on the CPU, where schedulers look them up: reading one off a device would wait for it.
        scheduler.set_timesteps(num_inference_steps)

        @torch.no_grad()
        def states() -> Generator[DenoisingState, None, None]:
            device, dtype = self._execution_device, self.unet.dtype
            if self.fast_network is not None:
                if self.fast_network.unet is not self.unet:
                    self.enable_fast_sampling(self.fast_network.max_batch_size)
                self.fast_network.begin()
            guidance = (None if labels is None else labels.to(device), guidance_scale, self.null_class)
            takes_generator = "generator" in inspect.signature(scheduler.step).parameters
            step_kwargs = {"generator": generator} if takes_generator else {}
            if latents is None:
                x_T = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
                x_t = noised_start(x_T, scheduler)
            else:
                x_t = latents.to(device, torch.float32) * scheduler.init_noise_sigma
            seed_noise_of_steps(scheduler, generator)
            x_0_hat, maker = None, type(scheduler).__name__ + ("" if callback is None else " or the callback")
            steps = FiniteSteps(scheduler.timesteps, dtype, maker)
            steps.remember(x_t)
            try:
                with self.progress_bar(total=len(scheduler.timesteps)) as bar:
                    for i, t in enumerate(scheduler.timesteps):
                        yield DenoisingState(t, x_t, x_0_hat)
                        output = guided_output(self._run, dtype, scheduler, x_t, t, *guidance)
                        steps.remember(output)
                        step = scheduler.step(output, t, x_t, **step_kwargs)
                        x_t, x_0_hat = step.prev_sample, getattr(step, "pred_original_sample", None)
                        bar.update()
                        if callback is not None:
                            tensors = {"latents": x_t, "pred_original_sample": x_0_hat}
                            wanted = {name: tensors[name] for name in callback_tensor_inputs}
                            x_t = (callback(self, i, t, wanted) or {}).get("latents", x_t)
                        steps.remember(x_t)
                        is_last = i + 1 == len(scheduler.timesteps) or (callback is not None and self.interrupt)
                        steps.look(is_last)
                    yield DenoisingState(None, x_t, x_0_hat)
            finally:
                self.maybe_free_model_hooks()

        return states()

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Return the classes of some names, integers in [0, num_class_embeds).

        Args:
            label: One name or several, keys of `labels`.

        Raises:
            ValueError: If there is no class of a name, or several.
        """
        return label_ids(self._id2label, label)

    def prepare_class_labels(
        self, class_labels: Any, batch_size: int, guidance_scale: float = 1.0
    ) -> torch.Tensor | None:
        """Check the classes of images, and that images can be guided to them. The arguments are those of a call.

        Returns:
            The class of each image, integers (batch_size,); None for a UNet without classes.

        Raises:
            ValueError: If the UNet does not have these classes, needs some, or cannot be guided.
        """
        arguments = (class_labels, batch_size, guidance_scale, self.unet.config, self.null_class)
        return class_tensor(*arguments, self._id2label)

    @property
    def _id2label(self) -> Mapping[Any, str]:
        return self.config.get("id2label") or {}

    def _run(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return (
            self.unet(x_t, t, class_labels=labels).sample
            if self.fast_network is None
            else self.fast_network(x_t, t, labels)
        )
