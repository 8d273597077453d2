"""Values of NumPy and of mmengine beside the weights: passed over, with nothing of them called."""

from __future__ import annotations

import pickle
import sys
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glip_export.checkpoint import read_checkpoint
from glip_export.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3)}
BESIDE = {
    "best_ap": np.float64(0.5),
    "iteration": np.int64(3),
    "lr": np.float32(1e-4),
    "half": np.float16(1),
    "done": np.bool_(True),
    "epochs": [np.uint8(1), np.int32(2)],
    "losses": np.arange(4.0),
    "name": np.str_("coco"),
}


def rewritten(source: Path, target: Path, replace: dict[bytes, bytes]) -> Path:
    """A copy of what torch.save wrote, with other names in its pickle."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith("data.pkl"):
                for before, after in replace.items():
                    assert before in content
                    content = content.replace(before, after)
            new.writestr(entry, content)
    return target


@pytest.mark.parametrize("legacy", [False, True])
def test_values_of_numpy_beside_the_model(tmp_path: Path, legacy: bool) -> None:
    torch.save({"model": STATE, **BESIDE}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    state = read_checkpoint(tmp_path / "w.pth").state
    assert state.keys() == STATE.keys()
    assert torch.equal(state["a.weight"], STATE["a.weight"])


def test_written_by_either_numpy(tmp_path: Path) -> None:
    torch.save({"model": STATE, **BESIDE}, tmp_path / "new.pth")
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        new, old = old, new
    path = rewritten(tmp_path / "new.pth", tmp_path / "old.pth", {new: old})
    assert torch.equal(read_checkpoint(path).state["a.weight"], STATE["a.weight"])


def test_a_value_of_numpy_is_no_weight(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "best_ap": np.float64(0.5)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="'best_ap' holds a value of NumPy"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_training_log_of_mmengine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HistoryBuffer:
        """Pickles as mmengine's: arrays, and its own methods by name."""

        def __init__(self) -> None:
            self._log_history = np.array([0.5, 0.25])
            self._statistics_methods = {"current": HistoryBuffer.current}

        def current(self) -> float:
            return float(self._log_history[-1])

    HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    HistoryBuffer.current.__module__ = HistoryBuffer.__module__
    HistoryBuffer.current.__qualname__ = "HistoryBuffer.current"
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["mmengine.logging.history_buffer"], "HistoryBuffer", HistoryBuffer, raising=False)
    log: dict[str, Any] = {"log_scalars": {"train/loss": HistoryBuffer()}}
    torch.save({"state_dict": STATE, "message_hub": log}, tmp_path / "epoch_1.pth")
    assert b"getattr" in zipfile.ZipFile(tmp_path / "epoch_1.pth").read("epoch_1/data.pkl")
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.delitem(sys.modules, name)
    assert read_checkpoint(tmp_path / "epoch_1.pth").state.keys() == STATE.keys()


class Call:
    """Pickles to a call, of a function by name or of what another call gave."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self, *_: Any) -> None:
        """What pickle wants of a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def test_the_allowed_names_lead_nowhere(tmp_path: Path) -> None:
    target, path = tmp_path / "pwned", tmp_path / "w.pth"
    tofile = Call(getattr, np.ndarray, "tofile")
    attack = Call(tofile, np.ones(3), str(target))
    pickle.loads(pickle.dumps(attack))  # the attack is real
    assert target.exists()
    target.unlink()
    torch.save({"model": STATE, "x": tofile}, path)
    assert read_checkpoint(path).state.keys() == STATE.keys()
    torch.save({"model": STATE, "x": attack}, path)
    with pytest.raises(CheckpointError, match="holds pickled code: refused"):
        read_checkpoint(path)
    torch.save({"model": STATE, "x": Call(getattr, Call(__import__, "os"), "system")}, path)
    with pytest.raises(CheckpointError, match=r"holds pickled code \(names \w*\.?__import__\)"):
        read_checkpoint(path)
    assert not target.exists()


def test_files_read_at_once(tmp_path: Path) -> None:
    torch.save({"model": STATE, **BESIDE}, tmp_path / "w.pth")
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(read_checkpoint, [tmp_path / "w.pth"] * 16))
    assert all(checkpoint.state.keys() == STATE.keys() for checkpoint in read)
