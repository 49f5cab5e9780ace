"""The command line: python -m ddpm_cars COMMAND, or accelerate launch -m ddpm_cars COMMAND."""

from ddpm_cars.cli import main

if __name__ == "__main__":
    main()
