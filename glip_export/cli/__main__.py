"""python -m glip_export.cli: glip-export without its script."""

from glip_export.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main()
