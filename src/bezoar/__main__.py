"""`bezoar` and `python -m bezoar`: listen for Ctrl-C first, then import what the command line
needs."""

from bezoar import stop


def main() -> None:
    """Run the command line; a Ctrl-C that comes while it is still being imported ends it like any
    other."""
    try:
        stop.listen()
        from bezoar.cli import main as run

        run()
    except KeyboardInterrupt:
        stop.leave()


if __name__ == "__main__":
    main()
