"""Look at the images and at their noising: python scripts/show.py --train_data_dir DIR"""

from ddpm_cars.cli.commands import show

if __name__ == "__main__":
    show()
