"""`python -m app` is the `imprint` command."""

from app.cli import main

if __name__ == "__main__":
    main()
