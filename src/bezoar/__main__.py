"""`bezoar` and `python -m bezoar`: listen for Ctrl-C before the slow imports."""

from bezoar import stop


def main() -> None:
    """Run the command line; a Ctrl-C during its import ends it like any other."""
    try:
        stop.listen()
        # the imports below take seconds, in which Ctrl-C must not print a traceback
        from bezoar.cli import main as run

        run()
    except KeyboardInterrupt:
        stop.leave()


if __name__ == "__main__":
    main()
