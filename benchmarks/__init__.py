"""ddpm_cars beside stock diffusers, measured in one run: python -m benchmarks SUITE."""
