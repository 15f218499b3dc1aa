"""`bezoar` and `python -m bezoar`: listen for Ctrl-C before the slow imports."""

from bezoar import stop


def main() -> None:
    """Run the command line; a Ctrl-C during its import ends it like any other."""
    try:
        stop.listen()
        from bezoar.cli import main as run

        run()
    except KeyboardInterrupt:
        stop.leave()


if __name__ == "__main__":
    main()
