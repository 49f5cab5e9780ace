"""What holds for every batch order, every image and every size."""

import warnings
from io import BytesIO

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from ddpm_cars.data.decoding import decode_image, resize_image
from ddpm_cars.data.findings import ImageError
from ddpm_cars.data.pictures import to_samples
from ddpm_cars.figures.grids import to_pil
from ddpm_cars.training.batches import BatchOrder

properties = settings(max_examples=50, deadline=None)
# ITU-R 601-2.
LIGHTNESS = (0.299, 0.587, 0.114)
SIGNATURES = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP", b"P6 ")
KINDS = ("jpeg", "png", "gif", "webp", "tiff", "bmp", "ppm", "tga", "ico")


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
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_every_picture_becomes_a_square(
    width: int, height: int, resolution: int, resize: str, mode: str, colour: tuple[int, int, int]
):
    background = "#{:02x}{:02x}{:02x}".format(*colour)
    resized = resize_image(Image.new("RGB", (width, height), colour).convert(mode), resolution, resize, background)
    assert resized.size == (resolution, resolution)
    assert resized.mode == mode
    # Borders of the colour of the image leave nothing but that colour, whatever the filter.
    pixels = np.asarray(resized)
    assert np.all(pixels == pixels[0, 0])
    assert np.abs(pixels[0, 0].astype(float) - (colour if mode == "RGB" else np.dot(colour, LIGHTNESS))).max() <= 1


@properties
@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4))),
    background=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_transparency_is_a_weighted_mean_with_the_background(pixels: np.ndarray, background: tuple[int, int, int]):
    Image.fromarray(pixels, "RGBA").save(file := BytesIO(), "png")
    decoded = np.asarray(decode_image(file.getvalue(), background="#{:02x}{:02x}{:02x}".format(*background)))
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(decoded, alpha * pixels[..., :3] + (1 - alpha) * background, atol=1)


def assert_picture_or_reason(data: bytes) -> None:
    reason = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode_image(data)
        except ImageError as error:
            reason = str(error)
    assert reason != ""
    assert reason is not None or image.mode == "RGB"


@properties
@given(data=st.binary(max_size=200), start=st.sampled_from(SIGNATURES))
def test_no_file_gives_anything_but_a_picture_or_a_reason(data: bytes, start: bytes):
    assert_picture_or_reason(start + data)


@properties
@given(
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), kind=st.sampled_from(KINDS)
)
def test_damaged_files_give_a_picture_or_a_reason(damage: list[tuple[int, int]], kind: str):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file := BytesIO(), kind)
    data = bytearray(file.getvalue())
    for position, value in damage:
        data[position % len(data)] = value
    assert_picture_or_reason(bytes(data))
