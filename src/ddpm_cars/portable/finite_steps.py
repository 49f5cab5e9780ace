"""Finding the step in which sampling leaves the finite numbers, without making the device wait in every step."""

import torch

_STEPS_BETWEEN_LOOKS = 32


class NonFiniteError(FloatingPointError):
    """A network or a sampler has left the finite numbers, so there is no image.

    Args:
        what: What is not finite, and where that was seen first, in a sentence without its full stop.
        cure: What to do about it in Python.
        is_of_network: Whether the output of the network is the first that is not finite, and not a sample.
    """

    def __init__(self, what: str, cure: str, is_of_network: bool):
        super().__init__(what, cure, is_of_network)
        self.what = what
        self.cure = cure
        self.is_of_network = is_of_network

    def __str__(self) -> str:
        return f"{self.what}: {self.cure}."


def non_finite_output(where: str, num_bad: int, num_images: int, dtype: torch.dtype) -> NonFiniteError:
    """Return the error of a network of some dtype that gives no finite output for a part of its images."""
    many = "the image" if num_images == 1 else f"{num_bad} of {num_images} images"
    if dtype == torch.float16:
        cure = "float16 ends at 65504; call pipe.to(torch.bfloat16) or pipe.to(torch.float32)"
    else:
        cure = (
            "weights that have diverged are the usual cause: load those of an earlier checkpoint, or train with a "
            "smaller learning rate; a very large guidance_scale or latents are another"
        )
    return NonFiniteError(f"The model output is not finite {where}, for {many}", cure, is_of_network=True)


class FiniteSteps:
    """Remembers the largest value of every model output and every sample, and looks at them now and then.

    What a sampler clips hides an infinite model output, so both are remembered.

    Args:
        timesteps: The timesteps of sampling, shape (steps,), on the CPU.
        dtype: That of the network.
        sampler: What makes one sample of another, in words.
    """

    def __init__(self, timesteps: torch.Tensor, dtype: torch.dtype, sampler: str):
        self._timesteps = timesteps
        self._dtype = dtype
        self._sampler = sampler
        self._unseen: list[torch.Tensor] = []
        self._num_seen = 0

    def remember(self, values: torch.Tensor) -> None:
        """Remember a sample or a model output, shape (batch, ...).

        The first is the noise that sampling starts from; then model outputs and samples take turns.
        """
        # The largest value is not finite if one of them is not, and costs a tenth of looking at each.
        self._unseen.append(values.abs().amax(dim=tuple(range(1, values.ndim))))

    def look(self, is_last: bool) -> None:
        """Look at what has been remembered, if it is time, which waits for the device; a CPU is never waited for.

        Raises NonFiniteError if something is not finite.
        """
        step = (self._num_seen + len(self._unseen)) // 2
        if not (is_last or self._unseen[0].device.type == "cpu" or step % _STEPS_BETWEEN_LOOKS == 0):
            return
        is_bad = ~torch.stack(self._unseen).isfinite().cpu()
        first, self._unseen, self._num_seen = self._num_seen, [], self._num_seen + len(is_bad)
        for number, images in enumerate(is_bad, first):
            if images.any():
                raise self._error(number, int(images.sum()), len(images))

    def _error(self, number: int, num_bad: int, num_images: int) -> NonFiniteError:
        if number == 0:
            cure = "pass other latents, or measure the init noise of the scheduler again"
            return NonFiniteError("The noise that sampling starts from is not finite", cure, is_of_network=False)
        i = (number - 1) // 2
        where = f"in step {i + 1} of {len(self._timesteps)} (timestep {float(self._timesteps[i]):g})"
        if number % 2:
            return non_finite_output(where, num_bad, num_images, self._dtype)
        many = "the image" if num_images == 1 else f"{num_bad} of {num_images} images"
        what = f"{self._sampler} loses {many} {where}, where the model output is finite"
        return NonFiniteError(what, "choose another scheduler or number of steps", is_of_network=False)
