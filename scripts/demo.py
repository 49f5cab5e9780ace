"""Show a model in the browser: python scripts/demo.py --pretrained_model_name_or_path DIR"""

from ddpm_cars.cli.commands import demo

if __name__ == "__main__":
    demo()
