"""`python -m pinakes` is the command line."""

from pinakes.cli import main

if __name__ == "__main__":
    main()
