"""Measure a model: accelerate launch scripts/evaluate.py --pretrained_model_name_or_path DIR"""

from ddpm_cars.cli.commands import evaluate

if __name__ == "__main__":
    evaluate()
