"""The command line: ddpm-cars COMMAND, python -m ddpm_cars COMMAND, or accelerate launch -m ddpm_cars COMMAND."""

import sys


def main() -> None:
    """Run the command of the process; an interruption ends it in one line, from the first import on."""
    try:
        from ddpm_cars.cli import main as run
    except KeyboardInterrupt:
        print("ddpm-cars: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
