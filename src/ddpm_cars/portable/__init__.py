"""What travels inside saved models, beside the scheduler and the pipeline: torch, numpy and diffusers only."""
