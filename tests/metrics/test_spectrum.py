"""Contrast and spectrum against numpy, scipy's transform and closed forms."""

import numpy as np
import pytest
import scipy.fft

from ddpm_cars.metrics.spectrum import contrast, radial_spectrum, spectrum_error_octaves


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (600, 8, 12, 3), dtype=np.uint8)


def test_contrast_is_the_std_of_all_values(noise: np.ndarray):
    assert contrast(noise) == pytest.approx(noise.astype(np.float64).std(), rel=1e-12)
    assert contrast(np.full((3, 8, 8, 1), 200, np.uint8)) == 0


def test_the_spectrum_keeps_the_variance_of_the_lightness(noise: np.ndarray):
    frequency, power = radial_spectrum(noise, num_bands=6)
    lightness = noise.mean(-1)
    modes = scipy.fft.dctn(lightness, axes=(1, 2), norm="ortho")
    assert power[0] == pytest.approx(modes[:, 0, 0].var(ddof=1), rel=1e-9)
    # Orthonormal, so that all modes together have the variance of all pixels.
    i, j = np.mgrid[:8, :12]
    radius = np.hypot(i / 8, j / 12) / np.sqrt(2)
    inside = radius > 0.75
    assert frequency[0] == 0
    assert frequency[-1] < 1
    assert np.all(np.diff(frequency) > 0)
    whole = modes.var(0, ddof=1)
    assert whole.sum() == pytest.approx(lightness.var(0, ddof=1).sum(), rel=1e-9)
    assert power[-1] == pytest.approx(whole[inside].mean(), rel=0.1)


def test_the_spectrum_does_not_depend_on_how_many_images_are_looked_at_together(noise: np.ndarray):
    _, all_at_once = radial_spectrum(noise)
    modes = scipy.fft.dctn(noise.mean(-1), axes=(1, 2), norm="ortho").var(0, ddof=1)
    # The mean of the modes in a band lies between the least and the greatest.
    assert modes.min() <= all_at_once.min() <= all_at_once.max() <= modes.max()
    _, repeated = radial_spectrum(np.concatenate([noise, noise]))
    np.testing.assert_allclose(repeated * (2 * 600 - 1) / (2 * 600 - 2), all_at_once, rtol=1e-9)


def test_a_pattern_is_found_at_its_frequency():
    x = np.arange(16)
    wave = np.cos(np.pi * (x + 0.5) * 5 / 16)
    amplitudes = np.random.default_rng(0).normal(0, 40, 300)
    pictures = (127.5 + amplitudes[:, None, None, None].clip(-120, 120) * wave[None, None, :, None]).round()
    images = np.repeat(pictures.astype(np.uint8), 16, axis=1)
    frequency, power = radial_spectrum(images)
    assert frequency[power.argmax()] == pytest.approx(5 / 16 / np.sqrt(2), abs=0.03)


def test_grey_images_are_their_own_lightness(noise: np.ndarray):
    grey = noise[..., :1]
    np.testing.assert_array_equal(radial_spectrum(grey)[1], radial_spectrum(np.repeat(grey, 3, axis=-1))[1])


@pytest.mark.parametrize(("factor", "octaves"), [(1, 0), (2, 1), (0.25, 2)])
def test_the_error_of_a_spectrum_counts_octaves(factor: float, octaves: float):
    power = np.array([1.0, 10.0, 100.0])
    assert spectrum_error_octaves(factor * power, power) == pytest.approx(octaves)


def test_a_spectrum_without_power_has_a_finite_error():
    assert np.isfinite(spectrum_error_octaves(np.zeros(3), np.ones(3)))
