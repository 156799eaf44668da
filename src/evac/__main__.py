"""`python -m evac` is the program `evac`."""

from evac.cli.main import main

if __name__ == "__main__":
    main()
