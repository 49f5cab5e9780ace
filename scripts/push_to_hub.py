"""Publish a model on the Hub, or the demo with it as a Space: python scripts/push_to_hub.py --help."""

from ddpm_cars.cli.commands import push_to_hub

if __name__ == "__main__":
    push_to_hub()
