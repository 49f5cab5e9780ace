"""Draw the toy data set: python scripts/draw_toy_cars.py --output_dir DIR"""

from ddpm_cars.cli.commands import draw_toy_cars

if __name__ == "__main__":
    draw_toy_cars()
