"""Measure a saved model for the variances that depend on it: python scripts/calibrate.py --help"""

from ddpm_cars.cli.commands import calibrate

if __name__ == "__main__":
    calibrate()
