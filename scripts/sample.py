"""Draw images from a saved model: python scripts/sample.py --pretrained_model_name_or_path DIR"""

from ddpm_cars.cli.commands import sample

if __name__ == "__main__":
    sample()
