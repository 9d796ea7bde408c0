"""`python -m hyperflow` is the `hyperflow` command."""

from hyperflow.cli.main import main

if __name__ == "__main__":
    main()
