"""``python -m monosem`` is ``monosem``."""

from monosem.cli.main import main

if __name__ == "__main__":
    main()
