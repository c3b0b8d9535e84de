"""`python -m sonant`, for launchers such as torchrun."""

from sonant.cli.main import main

if __name__ == "__main__":
    main()
