"""A calibration that is killed and begun again gives the bytes of one that was not."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from command_line import CAT
from PIL import Image

from glip_export.bundle import Bundle
from glip_export.graphs.quantization import calibration
from glip_export.graphs.quantization.int8_bundle import write_int8_bundle
from glip_export.graphs.quantization.ranges import RangeFinder
from glip_export.prompt import Prompt

PROMPT = Prompt.of("cat. remote control")
CALIBRATE_AND_DIE = """
import os, pathlib, signal, sys
from glip_export.bundle import Bundle
from glip_export.graphs.quantization import calibration, ranges
from glip_export.prompt import Prompt

save, saved, last = ranges.RangeFinder.save, [], int(sys.argv[3])

def save_or_die(finder, path):
    if len(saved) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    saved.append(path)
    save(finder, path)

ranges.RangeFinder.save = save_or_die
pictures = sorted(pathlib.Path(sys.argv[2]).iterdir())
calibration.calibrate(Bundle.open(sys.argv[1]), pictures, Prompt.of("cat. remote control"), sys.argv[4], 1)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("last", "method", "noted"),
    [
        (3, "minmax", 3),  # after the first of two pictures
        (4, "percentile", 2),  # between two graphs' saves of the second
    ],
)
def test_goes_on_with_the_same_bytes(tiny_copy, tmp_path, monkeypatch, last, method, noted):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        Image.open(CAT).rotate(90 * number, expand=True).save(folder / f"{number}.png")
    command = [sys.executable, "-c", CALIBRATE_AND_DIE, str(tiny_copy), str(folder), str(last), method]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    added = []
    add = RangeFinder.add
    monkeypatch.setattr(RangeFinder, "add", lambda finder, inputs: added.append(1) or add(finder, inputs))
    bundle, pictures = Bundle.open(tiny_copy), sorted(folder.iterdir())

    def files(name):
        found = calibration.calibrate(bundle, pictures, PROMPT, method, 1)
        return write_int8_bundle(bundle, tmp_path / name, found).files

    gone_on = files("gone-on")
    assert len(added) == noted
    shutil.rmtree(tiny_copy / "cache")
    assert files("whole") == gone_on and len(added) == noted + 6
