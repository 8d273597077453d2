"""python -m glip_export.cli: glip-export without its script."""

from glip_export.cli import main

main()
