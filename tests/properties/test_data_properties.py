"""What holds for every batch order, every picture and every size."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from ddpm_cars.data import BatchOrder, resize_image, to_samples
from ddpm_cars.plots import to_pil

properties = settings(max_examples=50, deadline=None)


@properties
@given(
    num_images=st.integers(1, 40),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    num_steps=st.integers(1, 12),
)
def test_steps_are_a_sequence_of_permutations(num_images: int, batch_size: int, seed: int, num_steps: int):
    order = BatchOrder(num_images, batch_size, seed)
    steps = [order(step) for step in range(num_steps)]
    assert all(indices.shape == (batch_size,) and indices.dtype == np.int64 for indices in steps)
    stream = np.concatenate(steps).tolist()
    for start in range(0, len(stream), num_images):
        epoch = stream[start : start + num_images]
        if len(epoch) == num_images:
            assert sorted(epoch) == list(range(num_images))
        else:
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(num_images))


@properties
@given(
    num_images=st.integers(1, 40),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    visited=st.lists(st.integers(0, 30), min_size=1, max_size=6),
)
def test_a_step_does_not_depend_on_the_steps_asked_for_before(
    num_images: int, batch_size: int, seed: int, visited: list[int]
):
    order = BatchOrder(num_images, batch_size, seed)
    for step in visited:
        np.testing.assert_array_equal(order(step), BatchOrder(num_images, batch_size, seed)(step))


@properties
@given(
    images=st.sampled_from([1, 3]).flatmap(
        lambda channels: hnp.arrays(
            np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.just(channels))
        )
    )
)
def test_pictures_survive_the_way_to_samples_and_back(images: np.ndarray):
    samples = to_samples(images)
    assert samples.dtype == torch.float32
    assert samples.shape == (images.shape[0], images.shape[3], images.shape[1], images.shape[2])
    assert samples.abs().max() <= 1
    back = [np.asarray(image).reshape(images.shape[1:]) for image in to_pil(samples)]
    np.testing.assert_array_equal(np.stack(back), images)


@properties
@given(
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    resolution=st.integers(8, 48),
    resize=st.sampled_from(["squash", "crop", "pad"]),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_every_picture_becomes_a_square(width: int, height: int, resolution: int, resize: str, mode: str):
    white = Image.new(mode, (width, height), 255 if mode == "L" else (255, 255, 255))
    resized = resize_image(white, resolution, resize)
    assert resized.size == (resolution, resolution)
    assert resized.mode == mode
    # White borders and white pictures leave nothing but white, whatever the filter.
    assert np.asarray(resized).min() == 255
