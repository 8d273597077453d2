"""A run of 60 pictures on a cluster, in a process that may end itself: ADDRESS OUTPUT BUNDLE PICTURES SOURCE."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cluster_stub import ClusterStub

from glip_export.labelling.cluster.label import label_on
from glip_export.labelling.cluster.settings import Cluster
from glip_export.labelling.run import Plan, label
from glip_export.labelling.sources import open_source


def main(address: str, output: str, bundle: str, pictures: str, source: str) -> None:
    """Ends by SIGKILL once so many pictures are answered; 0: never. Prints what it did."""

    def progress(done: int) -> None:
        if 0 < int(pictures) <= done:
            os.kill(os.getpid(), signal.SIGKILL)

    plan = Plan(open_source(source), Path(output), shard=4, block=2)
    opening = ClusterStub(bundle)
    ran = label(plan, {"floor": 0}, lambda blocks: label_on(Cluster(address), blocks, opening), progress=progress)
    print(ran.pictures, ran.answered)


if __name__ == "__main__":
    main(*sys.argv[1:])
