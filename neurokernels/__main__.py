"""``python -m neurokernels`` is the command ``neurokernels``."""

from neurokernels.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
