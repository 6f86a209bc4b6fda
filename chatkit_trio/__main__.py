"""`python -m chatkit_trio`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="python -m chatkit_trio")
