"""The study of band layouts: the noise that it holds to be ideal."""

import numpy as np
import pytest

from studies import band_layouts
from tests.support.scheduler_helpers import ALPHA_BAR, calibration_of, exact, gaussian_mse


def test_ideal_std_of_the_band_layouts_is_that_of_the_scheduler():
    scheduler = exact("analytic", calibration_of(gaussian_mse(0.3)))
    scheduler.set_timesteps(10)
    t, s = scheduler.timesteps[[3, 4]].tolist()
    x_0_variance = 0.3 * (1 - ALPHA_BAR[t]) / (ALPHA_BAR[t] * 0.3 + 1 - ALPHA_BAR[t])
    got = band_layouts.ideal_std(np.array(x_0_variance), t, s, ALPHA_BAR)
    assert float(got) == pytest.approx(scheduler.noise_std[3], rel=1e-9)
