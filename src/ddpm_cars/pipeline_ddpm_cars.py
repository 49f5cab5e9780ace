"""Unconditional and class-conditional image generation with a `UNet2DModel`.

The file stands alone: it needs torch, numpy and diffusers only, so that it can travel inside a model repository.
"""

import copy
import inspect
import json
import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import diffusers
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

logger = logging.get_logger(__name__)
OutputType = Literal["pil", "np", "pt", "raw", "numpy", "latent"]
OUTPUT_TYPES = get_args(OutputType)


def match_init_noise(noise: torch.Tensor, statistics: Mapping[str, Any], alpha_bar: float) -> torch.Tensor:
    """Turn white noise into x_T ~ N(sqrt(alpha_bar) mean, alpha_bar covariance + (1 - alpha_bar) I).

    That is q(x_T) of Ho et al. 2020, eq. 4, to second order; N(0, I) stands in for it where alpha_bar is nearly 0.

    Args:
        noise: z ~ N(0, I), shape (batch, C, H, W), float32 or float64.
        statistics: Moments of the data in the m x m lowest modes of an orthonormal basis: its "rows" (m, H) and
            "columns" (m, W), the "mean" (C, m, m) and "covariance" (C m m, C m m) of the modes, and "rest_variance",
            the mean variance of everything else.
        alpha_bar: The noise level that sampling starts from, in [0, 1].

    Returns:
        x_T like `noise`.

    Raises:
        ValueError: If the statistics are those of images of another shape.
    """
    mean, covariance, rows, columns = (
        torch.tensor(statistics[name], dtype=torch.float64) for name in ("mean", "covariance", "rows", "columns")
    )
    measured = (len(mean), rows.shape[1], columns.shape[1])
    if tuple(noise.shape[1:]) != measured:
        raise ValueError(
            f"The noise has shape {tuple(noise.shape)}, but the init noise was measured on (channels, height, "
            f"width) = {measured}: measure it again with ddpm_cars.fit_init_noise."
        )
    values, vectors = torch.linalg.eigh(alpha_bar * covariance)
    # The symmetric root keeps x_T as near to the given noise as can be, so seeds keep their images.
    root = vectors * (values.clamp(min=0) + 1 - alpha_bar).sqrt() @ vectors.T
    rest_std = (alpha_bar * statistics["rest_variance"] + 1 - alpha_bar) ** 0.5
    rows, columns, root, shift = (x.to(noise) for x in (rows, columns, root, alpha_bar**0.5 * mean))
    low = rows @ noise @ columns.T
    wanted = shift + (low.flatten(1) @ root).view(low.shape)
    return rest_std * noise + rows.T @ (wanted - rest_std * low) @ columns


def noised_start(noise: torch.Tensor, scheduler: Any) -> torch.Tensor:
    """Turn white noise into what sampling starts from: x_T, or x_0 + sigma eps for schedulers that compute with that.

    Args:
        noise: z ~ N(0, I), shape (batch, channels, height, width), float32 or float64.
        scheduler: Set to the timesteps of sampling. If its config holds the moments of the data, x_T is drawn from
            q(x_T), else from N(0, I).

    Returns:
        A tensor like `noise`.

    Raises:
        ValueError: If the moments are those of images of another shape.
    """
    statistics, scale = scheduler.config.get("_init_noise"), scheduler.init_noise_sigma
    if statistics is None:
        return noise * scale
    alpha_bar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])])
    x_T = match_init_noise(noise, statistics, alpha_bar)
    # x_0 + sigma eps is x_T / sqrt(alpha_bar). Their own scale, sigma alone, has no room for x_0.
    return x_T if scale == 1 else x_T / math.sqrt(alpha_bar)


_SCHEDULER_MODULE, _SCHEDULER_NAME = "ddpm_cars.scheduling_ddpm_cars", "DDPMCarsScheduler"


def one_file_source() -> str:
    """Return the source of the scheduler and of this pipeline in one module: the `pipeline.py` of saved folders."""
    own = Path(__file__).read_text(encoding="utf-8")
    if _SCHEDULER_NAME in globals():  # this is that module already
        return own
    return f"{Path(str(sys.modules[_SCHEDULER_MODULE].__file__)).read_text(encoding='utf-8')}\n\n{own}"


def _restored(scheduler: Any) -> Any:
    """Return the scheduler that diffusers' DDPMScheduler stands in for in saved folders, if its class is at hand."""
    saved = scheduler.config.get("_ddpm_cars")
    if saved is None or type(scheduler) is not DDPMScheduler:
        return scheduler
    module, _, name = saved["class"].rpartition(".")
    # Nothing is imported because a file says so: diffusers, too, takes only what is imported already.
    own_class: Any = globals().get(name) or getattr(sys.modules.get(module), name, None)
    is_scheduler = isinstance(own_class, type) and issubclass(own_class, SchedulerMixin)
    return own_class.from_config(scheduler.config) if is_scheduler else scheduler


class CapturedFunction:
    """A function of tensors on a GPU, captured in a graph: one call where there were thousands of small ones.

    The first calls run as they are, and prepare what is prepared once. Shapes, dtypes and the memory of whatever else
    the function works on must stay.

    Args:
        function: Takes tensors and returns one. It must not wait for the device.
    """

    _num_plain_calls = 3

    def __init__(self, function: Callable[..., torch.Tensor]):
        self.function = function
        self._num_calls = 0
        self._arguments: list[torch.Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        """Return what the function returns, in memory of its own."""
        with torch.cuda.device(arguments[0].device):
            return self._call(*arguments)

    def _call(self, *arguments: torch.Tensor) -> torch.Tensor:
        if not self._arguments:
            self._arguments = [argument.clone() for argument in arguments]
            # One for all first calls: each stream keeps memory of its own.
            self._stream = torch.cuda.Stream()
        for kept, given in zip(self._arguments, arguments, strict=True):
            kept.copy_(given)
        self._num_calls += 1
        if self._num_calls <= self._num_plain_calls:
            return self._run_plainly()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._result = self.function(*self._arguments)
            self._graph = graph
        self._graph.replay()
        return self._result.clone()

    def _run_plainly(self) -> torch.Tensor:
        # Beside the usual stream, as graphs are captured.
        ours = torch.cuda.current_stream()
        self._stream.wait_stream(ours)
        with torch.cuda.stream(self._stream):
            result = self.function(*self._arguments)
        ours.wait_stream(self._stream)
        return result.clone()


def compiler_options(device: torch.device) -> dict[str, Any] | None:
    """Return what torch.compile has to be told of a UNet on a device, None where it is nothing."""
    # By itself the compiler leaves channels-last where a convolution halves its channels, as half of a UNet does.
    return {"force_layout_optimization": True} if device.type == "cuda" else None


class _CompiledNetwork:
    """A network behind torch.compile, and behind a captured graph on CUDA, in batches of few shapes.

    Args:
        unet: The network.
        max_batch_size: Larger batches are run in parts of this size, and smaller ones in the next power of two.
    """

    def __init__(self, unet: UNet2DModel, max_batch_size: int):
        self.unet = unet
        self.max_batch_size = max_batch_size
        self._programs: dict[tuple[Any, ...], Callable[..., torch.Tensor]] = {}
        self._places: list[int] = []
        self._compile()

    def _compile(self) -> None:
        self._device_type = self.unet.device.type
        self.compiled: Any = torch.compile(self.unet, dynamic=False, options=compiler_options(self.unet.device))

    @property
    def is_captured(self) -> bool:
        """Whether any batch has been run from a captured graph."""
        return any(isinstance(program, CapturedFunction) for program in self._programs.values())

    def begin(self) -> None:
        """Forget what was compiled for another device, and captured around weights that have moved since."""
        if self.unet.device.type != self._device_type:
            self._compile()
        places = [tensor.data_ptr() for tensor in (*self.unet.parameters(), *self.unet.buffers())]
        if places != self._places:
            self._programs, self._places = {}, places

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        # As a tensor, or every timestep would be a program of its own; so would every other layout in memory.
        x_t, t = x_t.contiguous(), t.expand(len(x_t)).contiguous()
        labels = None if labels is None else labels.contiguous()
        # The compiler gives up on a network after a few shapes, and takes a minute for each.
        n = min(1 << (len(x_t) - 1).bit_length(), self.max_batch_size)
        if len(x_t) == n:
            return self._run(x_t, t, labels)
        rows = torch.arange(len(x_t) + -len(x_t) % n, device=x_t.device) % len(x_t)
        parts = [self._run(x_t[i], t[i], None if labels is None else labels[i]) for i in rows.split(n)]
        return torch.cat(parts)[: len(x_t)]

    def _run(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        arguments = (x_t, t) if labels is None else (x_t, t, labels)
        if self.compiled is not None:
            try:
                # Schedulers number their timesteps by integers or by fractions.
                key = tuple((argument.shape, argument.dtype) for argument in arguments)
                if key not in self._programs:
                    # Weights that are moved in and out, as for a small GPU, cannot be captured.
                    captured = x_t.is_cuda and not hasattr(self.unet, "_hf_hook")
                    self._programs[key] = CapturedFunction(self._call_compiled) if captured else self._call_compiled
                return self._programs[key](*arguments)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                # Whatever it is that a compiler lacks here, the network runs without it, or raises by itself.
                reason = " ".join(str(error).split())[:200]
                logger.warning(
                    f"The network cannot be compiled here and runs as it is: {type(error).__name__}: {reason}"
                )
                self.compiled = None
        return self.unet(x_t, t, class_labels=labels, return_dict=False)[0]

    def _call_compiled(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.compiled(x_t, t, class_labels=labels, return_dict=False)[0]


class DenoisingState(NamedTuple):
    """Where a drawing is between two steps.

    Attributes:
        timestep: t, from which the next step starts, a number of shape (); None where no step is left.
        sample: x_t, float32 (batch, channels, height, width), not clipped to [-1, 1].
        pred_original_sample: x_0_hat, what the step to x_t took x_0 for, shaped like `sample`; None before the first
            step, and where the scheduler does not report it.
    """

    timestep: torch.Tensor | None
    sample: torch.Tensor
    pred_original_sample: torch.Tensor | None


def samples_with_learned_variance(scheduler: Any) -> bool:
    """Return whether a scheduler reads the variance of its steps from a second half of the model's output."""
    # Configs keep the keys of other classes, so "variance_type" alone does not tell.
    get_variance = getattr(scheduler, "_get_variance", None)
    if get_variance is None or "predicted_variance" not in inspect.signature(get_variance).parameters:
        return False
    return scheduler.config.variance_type in ("learned", "learned_range")


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

    Raises:
        ValueError: If the keys of `id2label` are not 0, 1, ...
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents", "pred_original_sample"]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        # JSON, which a saved pipeline comes from, knows no integer keys.
        id2label: dict[int, str] | dict[str, str] | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=_restored(scheduler))
        self.labels: dict[str, int] = {}
        self._fast: _CompiledNetwork | None = None
        self._interrupt = False
        if id2label is not None:
            self._name_classes(id2label)

    def _name_classes(self, id2label: Mapping[Any, str]) -> None:
        names = {int(i): name for i, name in id2label.items()}
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"id2label names the classes {sorted(names)}; name those from 0 to {len(names) - 1}.")
        # Only where there are names: other pipelines warn of an entry that they do not know.
        self.register_to_config(id2label=names)
        self.labels = {part.strip(): i for i, name in names.items() for part in name.split(",")}
        self.labels |= {name: i for i, name in names.items()}

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, and with `pipeline.py`, the code that loads the folder where the package is missing.

        Args:
            save_directory: Folder, made where there is none.
            args: As `DiffusionPipeline.save_pretrained` takes them.
            kwargs: Likewise.
        """
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / "pipeline.py").write_text(one_file_source(), encoding="utf-8")
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
        # What it is, not what it is saved as.
        return f"{type(self).__name__} {super().to_json_string()}"

    def enable_fast_sampling(self, max_batch_size: int = 16) -> None:
        """Compile the network, for many images or steps: the first call takes up to minutes, the others less.

        The same seeds give the same images, up to rounding. The dtype is that of the UNet: `pipe.to(torch.bfloat16)`
        goes with it. Where nothing can be compiled, a warning says so and the network runs as it is.

        Args:
            max_batch_size: Larger batches run in parts of this size, and smaller ones as the next power of two, filled
                up: few programs do for all of them, and each is compiled when it is first needed. 1 or more.

        Raises:
            ValueError: If `max_batch_size` is below 1.
        """
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size is {max_batch_size}; it must be 1 or more.")
        self.unet.to(memory_format=torch.channels_last)
        self._fast = _CompiledNetwork(self.unet, max_batch_size)

    def disable_fast_sampling(self) -> None:
        """Undo `enable_fast_sampling`."""
        if self._fast is not None:
            self._fast.unet.to(memory_format=torch.contiguous_format)
            self._fast = None

    @property
    def null_class(self) -> int | None:
        """The class that stands for no class at all (Ho & Salimans 2022), None where the UNet was trained without."""
        num_names = len(self.config.get("id2label") or ())
        has_one_more = num_names > 0 and self.unet.config.num_class_embeds == num_names + 1
        return num_names if has_one_more else None

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked for the end of sampling, `pipe._interrupt = True`, as diffusers has it."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """How many denoising steps the scheduler is set to, for callbacks that want to know the last one."""
        return len(self.scheduler.timesteps)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, torch.Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images, with classifier-free guidance where `guidance_scale` is not 1.

        The prediction is then eps_none + guidance_scale (eps_class - eps_none) (Ho & Salimans 2022, arXiv:2207.12598,
        eq. 6, whose w is guidance_scale - 1), and alike for x_0 and v; a learned variance is that of the class.

        Args:
            batch_size: How many, 1 or more.
            generator: Where the noise comes from. A list of one generator per image makes every image independent
                of the others in its batch.
            num_inference_steps: How many denoising steps; None means every timestep the scheduler was trained with.
            output_type: "pil" for PIL images, "np" for a float32 array (batch, height, width, channels) in [0, 1],
                "pt" for a float32 tensor (batch, channels, height, width) in [0, 1], "raw" for that in [-1, 1];
                "numpy" and "latent" are what diffusers has also called "np" and "raw".
            return_dict: Whether an `ImagePipelineOutput` is returned, else a tuple of its one value.
            callback_on_step_end: Called after every step as `callback(pipe, step_index, timestep, tensors)`. A dict
                that it returns may hold "latents", which then replaces x_s. After `pipe._interrupt = True` no step
                follows.
            callback_on_step_end_tensor_inputs: Which tensors the callback is given: "latents" (x_s) and
                "pred_original_sample" (x_0_hat, None where the scheduler does not report it).
            class_labels: Integers in [0, num_class_embeds) or names, one per image or one for all; for UNets with
                classes. Where the last class is "no class", None stands for it, and labels end before it.
            guidance_scale: How far to go from no class to the class, any finite number; 1 is the class alone, at half
                the work. Others need a UNet whose last class is "no class".

        Returns:
            `images`, as `output_type` says.

        Raises:
            ValueError: If an argument is out of its range or does not fit the UNet.
        """
        self._check_outputs(output_type, callback_on_step_end_tensor_inputs)
        self._interrupt = False
        # On the pipeline's own scheduler, which callbacks look at.
        states = self._denoise(
            self.scheduler, batch_size, generator, num_inference_steps, class_labels, guidance_scale
        )
        with closing(states):
            x_t = next(states).sample
            for i, t in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    break
                state = states.send(x_t)
                x_t = state.sample
                if callback_on_step_end is not None:
                    tensors = {"latents": x_t, "pred_original_sample": state.pred_original_sample}
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    x_t = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", x_t)
        images = self.postprocess(x_t, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def denoise(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> Generator[DenoisingState, torch.Tensor | None, None]:
        """Draw images step by step; calling the pipeline with the same arguments gives what comes out at the end.

        Nothing is computed but what is asked for, and a generator that is not wanted any more may be closed. Several
        may be read in turn: each works on a copy of the scheduler. Gradients are off within the steps only, not for
        whoever reads them.

        Args:
            batch_size: As in a call, like all that follow.
            generator: Where the noise comes from.
            num_inference_steps: How many denoising steps.
            class_labels: The classes of the images.
            guidance_scale: How far to go from no class to the class.

        Returns:
            A generator of `DenoisingState`: the noise x_T first, then what every step leads to. A tensor that is
            sent to it takes the place of the sample that it has yielded last.

        Raises:
            ValueError: If an argument is out of its range or does not fit the UNet.
        """
        config = self.scheduler.config
        scheduler = copy.deepcopy(self.scheduler, {id(config): config})
        return self._denoise(scheduler, batch_size, generator, num_inference_steps, class_labels, guidance_scale)

    def _denoise(
        self,
        scheduler: Any,
        batch_size: int,
        generator: Any,
        num_inference_steps: int | None,
        class_labels: Any,
        guidance_scale: float,
    ) -> Generator[DenoisingState, torch.Tensor | None, None]:
        """Check the arguments at once, and leave the work to a generator."""
        if num_inference_steps is None:
            num_inference_steps = scheduler.config.num_train_timesteps
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more.")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be 1 or more.")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"{len(generator)} generators were given for {batch_size} images; pass one for each.")
        labels = self.prepare_class_labels(class_labels, batch_size, guidance_scale)
        shape = (batch_size, self.unet.config.in_channels, *self._image_size())
        # The timesteps stay on the CPU: schedulers look them up there, and reading one off a device would wait for it.
        scheduler.set_timesteps(num_inference_steps)
        return self._steps(scheduler, shape, generator, labels, guidance_scale)

    @torch.no_grad()
    def _steps(
        self,
        scheduler: Any,
        shape: tuple[int, ...],
        generator: Any,
        labels: torch.Tensor | None,
        guidance_scale: float,
    ) -> Generator[DenoisingState, torch.Tensor | None, None]:
        device = self._execution_device
        if self._fast is not None:
            if self._fast.unet is not self.unet:
                self.enable_fast_sampling(self._fast.max_batch_size)
            self._fast.begin()
        labels = None if labels is None else labels.to(device)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        step_kwargs = {"generator": generator} if takes_generator else {}
        x_t = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        x_t, x_0_hat = noised_start(x_t, scheduler), None
        timesteps = scheduler.timesteps
        try:
            with self.progress_bar(total=len(timesteps)) as bar:
                for t in timesteps:
                    sent = yield DenoisingState(t, x_t, x_0_hat)
                    x_t = x_t if sent is None else sent
                    step = scheduler.step(
                        self._predict(scheduler, x_t, t, labels, guidance_scale), t, x_t, **step_kwargs
                    )
                    x_t, x_0_hat = step.prev_sample, getattr(step, "pred_original_sample", None)
                    bar.update()
                yield DenoisingState(None, x_t, x_0_hat)
        finally:
            self.maybe_free_model_hooks()

    def _check_outputs(self, output_type: str, callback_tensor_inputs: Sequence[str]) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; choose one of {OUTPUT_TYPES}.")
        num_channels = self.unet.config.in_channels
        if output_type == "pil" and num_channels not in (1, 3, 4):
            raise ValueError(f"PIL has no images of {num_channels} channels; take output_type 'np' or 'pt'.")
        unknown = set(callback_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            known = self._callback_tensor_inputs
            raise ValueError(f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; choose from {known}.")

    def _image_size(self) -> tuple[int, int]:
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError("The UNet's config has no `sample_size`; set it to the image size it was trained on.")
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Return the classes of some names.

        Args:
            label: One name or several, keys of `labels`.

        Returns:
            As many integers in [0, num_class_embeds).

        Raises:
            ValueError: If there is no class of a name.
        """
        names = [label] if isinstance(label, str) else list(label)
        unknown = [name for name in names if name not in self.labels]
        if unknown and not self.labels:
            raise ValueError(f"{unknown} was asked for, but the classes of this model have no names: pass integers.")
        if unknown:
            raise ValueError(f"{unknown} is not among the names of classes; choose from {sorted(self.labels)}.")
        return [self.labels[name] for name in names]

    def prepare_class_labels(
        self, class_labels: Any, batch_size: int, guidance_scale: float = 1.0
    ) -> torch.Tensor | None:
        """Check the classes of images, and how far they are guided to them.

        Args:
            class_labels: As a call takes them.
            batch_size: How many images, 1 or more.
            guidance_scale: As a call takes it.

        Returns:
            The class of each image, integers (batch_size,); None for a UNet without classes.

        Raises:
            ValueError: If the UNet does not have these classes, needs some, or cannot be guided.
        """
        self._check_guidance(guidance_scale, class_labels)
        num_classes, null_class = self.unet.config.num_class_embeds, self.null_class
        if num_classes is None and self.unet.config.class_embed_type is None:
            if class_labels is not None:
                raise ValueError("class_labels were given, but this UNet takes none (`num_class_embeds` is None).")
            return None
        if class_labels is None:
            if null_class is None:
                raise ValueError(f"This UNet draws one of {num_classes} classes: pass class_labels.")
            return torch.full((batch_size,), null_class)
        if isinstance(class_labels, str):
            class_labels = [class_labels]
        if isinstance(class_labels, Sequence):
            class_labels = [self.get_label_ids(x)[0] if isinstance(x, str) else x for x in class_labels]
        labels = torch.as_tensor(class_labels).flatten()
        if len(labels) not in (1, batch_size):
            raise ValueError(f"{len(labels)} class_labels were given for {batch_size} images; pass one, or one each.")
        if labels.is_floating_point():
            raise ValueError(f"class_labels {labels.tolist()} must be integers.")
        end = num_classes if null_class is None else null_class
        if end is not None and not bool(((labels >= 0) & (labels < end)).all()):
            raise ValueError(f"class_labels {labels.tolist()} must be from 0 to {end - 1}.")
        return labels.expand(batch_size)

    def _check_guidance(self, guidance_scale: float, class_labels: Any) -> None:
        if not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale is {guidance_scale}; it must be a finite number.")
        if guidance_scale == 1:
            return
        if self.null_class is None:
            raise ValueError(
                f"guidance_scale is {guidance_scale}, but this UNet has not learned to draw without a class: leave it "
                "at 1, or train with a last class for that (num_class_embeds one above the names in id2label)."
            )
        if class_labels is None:
            raise ValueError(
                f"guidance_scale is {guidance_scale} but there is no class to be guided to: pass class_labels, or "
                "leave it at 1."
            )

    @torch.no_grad()
    def predict(
        self,
        sample: torch.Tensor,
        timestep: int | torch.Tensor,
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        """Look at x_t once, and return what the network predicts from it.

        Args:
            sample: x_t, floating point (batch, channels, height, width), on any device.
            timestep: t, one for all.
            class_labels: As in a call.
            guidance_scale: As in a call.

        Returns:
            eps, x_0 or v, in the dtype of `sample` and on the device of the UNet. A second half of its channels is
            there if the scheduler samples with a learned variance.

        Raises:
            ValueError: If an argument does not fit the UNet.
        """
        device = self._execution_device
        labels = self.prepare_class_labels(class_labels, len(sample), guidance_scale)
        labels = None if labels is None else labels.to(device)
        return self._predict(self.scheduler, sample.to(device), torch.as_tensor(timestep), labels, guidance_scale)

    def _predict(
        self, scheduler: Any, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None, guidance_scale: float
    ) -> torch.Tensor:
        model_input = scheduler.scale_model_input(x_t, t).to(self.unet.dtype)
        null_class = self.null_class
        if guidance_scale == 1 or labels is None or null_class is None:
            model_output = self._run_network(model_input, t, labels).to(x_t.dtype)
        else:
            both = torch.cat([labels, torch.full_like(labels, null_class)])
            outputs = self._run_network(torch.cat([model_input] * 2), t, both).to(x_t.dtype)
            of_class, of_none = outputs.chunk(2)
            # A learned variance, the second half, is no direction to go further in.
            of_class, variance = of_class[:, : x_t.shape[1]], of_class[:, x_t.shape[1] :]
            of_none = of_none[:, : x_t.shape[1]]
            model_output = torch.cat([of_none + guidance_scale * (of_class - of_none), variance], dim=1)
        if model_output.shape[1] == 2 * x_t.shape[1] and not samples_with_learned_variance(scheduler):
            # The second half is a variance that this scheduler has no use for.
            model_output = model_output[:, : x_t.shape[1]]
        return model_output

    def _run_network(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        if t.device != x_t.device:
            # Written there: to copy it there would wait for the device at every step.
            t = torch.full((), t.item(), dtype=t.dtype, device=x_t.device)
        if self._fast is not None:
            return self._fast(x_t, t, labels)
        return self.unet(x_t, t, class_labels=labels).sample

    def postprocess(self, sample: torch.Tensor, output_type: OutputType = "pil") -> Any:
        """Turn what the last step leads to into images.

        Args:
            sample: x_0, floating point (batch, channels, height, width); values outside [-1, 1] are clipped.
            output_type: As in a call, and so is what is returned.
        """
        x_0 = sample.float().clamp(-1, 1)
        if output_type in ("raw", "latent"):
            return x_0
        images = x_0 / 2 + 0.5
        if output_type == "pt":
            return images
        array = images.permute(0, 2, 3, 1).cpu().numpy()
        return self.numpy_to_pil(array) if output_type == "pil" else array
