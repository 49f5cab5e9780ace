"""Train a model: accelerate launch scripts/train.py --train_data_dir DIR"""

from ddpm_cars.cli.commands import train

if __name__ == "__main__":
    train()
