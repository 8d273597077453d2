"""What the CPU kernels are called with: nothing that does not fit reaches C."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glip_export.errors import BackendError
from glip_export.runtime import native
from glip_export.runtime.native import Kernels
from glip_export.runtime.native.kernels import _SIGNATURES

F32 = np.float32


class Watching:
    """Stands for the library: counts what is called; the parameters are converted as for C."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable:
        function = getattr(self._library, name)

        def call(*arguments: Any) -> None:
            for parameter, argument in zip(function.argtypes, arguments, strict=True):
                try:
                    parameter.from_param(argument)
                except (TypeError, ValueError) as error:
                    raise ctypes.ArgumentError(str(error)) from error
            self.calls.append(name)

        return call


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    """Kernels that call nothing."""
    try:
        loaded = native.load_kernels()
    except BackendError as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(str(error))
    library, loaded._library = loaded._library, Watching(loaded._library)
    yield loaded
    loaded._library = library


def swin_block_arguments(kernels: Kernels) -> dict[str, Any]:
    panel, (channels, hidden) = kernels.panel, (32, 64)
    parameters = [np.zeros(channels, F32) for _ in range(4)]
    for depth, width in ((channels, 3 * channels), (channels, channels), (channels, hidden), (hidden, channels)):
        columns = kernels.padded(width)
        parameters += [np.zeros(depth * columns * 4, np.uint8), np.zeros(columns, F32)]
    return {
        "x": np.zeros((2, 3, 4, channels), F32),
        "out": np.zeros((2, 3, 4, channels), F32),
        "parameters": [*parameters, np.zeros((1, 4, panel), F32)],
        "heads": 1,
        "window": 2,
        "shift": 1,
        "hidden": hidden,
        "epsilon": (1e-5, 1e-5),
        "precision": "fp32",
        "threads": 1,
    }


def bert_layer_arguments(kernels: Kernels) -> dict[str, Any]:
    swin = swin_block_arguments(kernels)
    return {
        "x": np.zeros((2, 5, 32), F32),
        "mask": np.zeros((2, 1, 1, 5), F32),
        "out": np.zeros((2, 5, 32), F32),
        "parameters": swin["parameters"][:-1],
        "heads": 2,
        "hidden": swin["hidden"],
        "limits": (-1.0, 1.0, -1.0, 1.0),
        "epsilon": (1e-5, 1e-5),
        "precision": "fp32",
        "threads": 1,
    }


def dyconv_arguments(kernels: Kernels) -> dict[str, Any]:
    channels = kernels.panel
    square, hidden = channels * channels, channels // 4
    convolution = [np.zeros(9 * square * 4, np.uint8), *(np.zeros(channels, F32) for _ in range(3))]
    layers = [channels, 1, hidden * channels, hidden, 4 * channels * hidden, 4 * channels]
    offset = [np.zeros(9 * channels * 32 * 4, np.uint8), np.zeros(32, F32)]
    sizes = [(3, 5), (2, 3)]
    return {
        "features": [np.zeros((2, channels, *size), F32) for size in sizes],
        "out": [np.zeros((2, 21, channels), F32)],
        "sizes": sizes,
        "parameters": [*convolution * 3, *(np.zeros(size, F32) for size in layers), *offset],
        "groups": 4,
        "epsilon": (1e-5, 1e-5, 1e-5),
        "precision": "fp32",
        "threads": 1,
    }


def bi_attention_arguments(kernels: Kernels) -> dict[str, Any]:
    channels = kernels.panel
    text = np.zeros((2, 15, channels), F32), np.zeros((2, 15, 1), F32), np.zeros((2, 15, channels), F32)
    return {
        "image": np.zeros((2, 10, channels), F32),
        "text": text,
        "mask": np.zeros((2, 1, 1, 5), F32),
        "limits": (-1.0, 1.0),
        "to_text": np.zeros((2, 15, channels), F32),
        "to_image": np.zeros((2, 10, channels), F32),
        "precision": "fp32",
        "threads": 1,
        "norm": np.zeros((4, channels), F32),
    }


ARGUMENTS = {
    "swin_block": swin_block_arguments,
    "bert_layer": bert_layer_arguments,
    "dyconv": dyconv_arguments,
    "bi_attention": bi_attention_arguments,
}


@pytest.mark.parametrize("kernel", ARGUMENTS)
def test_what_fits_is_called(kernels: Kernels, kernel: str) -> None:
    getattr(kernels, kernel)(**ARGUMENTS[kernel](kernels))
    assert kernels._library.calls == [f"glip_{kernel}"]


@pytest.mark.parametrize("change", ["shorter", "longer"])
@pytest.mark.parametrize("kernel", ARGUMENTS)
def test_every_array_of_another_size_is_a_value_error(kernels: Kernels, kernel: str, change: str) -> None:
    def resized(array: np.ndarray) -> np.ndarray:
        length = array.shape[-1] + (kernels.panel if change == "longer" else -1)
        return np.zeros((*array.shape[:-1], length), array.dtype)

    _each_changed(kernels, kernel, resized, ValueError)


@pytest.mark.parametrize("kernel", ARGUMENTS)
def test_every_array_of_another_dtype_is_refused(kernels: Kernels, kernel: str) -> None:
    _each_changed(
        kernels, kernel, lambda array: array.astype("f8" if array.dtype == F32 else "i1"), ctypes.ArgumentError
    )


@pytest.mark.parametrize("kernel", ARGUMENTS)
def test_every_array_that_is_not_contiguous_is_refused(kernels: Kernels, kernel: str) -> None:
    def strided(array: np.ndarray) -> np.ndarray:
        return np.repeat(array, 2, axis=-1)[..., ::2]

    _each_changed(kernels, kernel, strided, ctypes.ArgumentError, skip=lambda array: array.size < 2)


@pytest.mark.parametrize("kernel", ARGUMENTS)
def test_results_that_are_read_only_are_refused(kernels: Kernels, kernel: str) -> None:
    def frozen(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flags.writeable = False
        return array

    for name in ARGUMENTS[kernel](kernels).keys() & {"out", "to_text", "to_image"}:
        _each_changed(kernels, kernel, frozen, ctypes.ArgumentError, only=name)


def _each_changed(
    kernels: Kernels,
    kernel: str,
    changed: Callable[[np.ndarray], np.ndarray],
    error: type[Exception],
    skip: Callable[[np.ndarray], bool] = lambda array: False,
    only: str = "",
) -> None:
    """Calls with each array changed in turn: an error, and nothing called."""
    tried = 0
    for name, value in ARGUMENTS[kernel](kernels).items():
        places = range(len(value)) if isinstance(value, (list, tuple)) else [None]
        for place in places:
            array = value if place is None else value[place]
            if not isinstance(array, np.ndarray) or skip(array) or (only and name != only):
                continue
            arguments = ARGUMENTS[kernel](kernels)
            if place is None:
                arguments[name] = changed(array)
            else:
                arguments[name] = [changed(array) if i == place else other for i, other in enumerate(value)]
            with pytest.raises(error):
                getattr(kernels, kernel)(**arguments)
            tried += 1
    assert tried
    assert kernels._library.calls == []


@pytest.mark.parametrize(
    ("kernel", "change", "words"),
    [
        ("swin_block", {"threads": 0}, "takes 1 thread or more, not 0"),
        ("swin_block", {"x": np.zeros((2, 3, 32), F32)}, "should be .B, H, W, C."),
        ("swin_block", {"x": np.zeros((2, 0, 4, 32), F32)}, "should be .B, H, W, C."),
        ("swin_block", {"heads": 0}, "0 heads of 32 channels"),
        ("swin_block", {"heads": 2}, "2 heads of 32 channels"),
        ("swin_block", {"hidden": 16}, "16 hidden"),
        ("swin_block", {"window": 0}, "no window of 0"),
        ("swin_block", {"shift": 2}, "no window of 2 with a shift of 2"),
        ("swin_block", {"parameters": []}, "are 0 arrays and should be 13"),
        ("swin_block", {"epsilon": (1.0,)}, "reshape"),
        ("bert_layer", {"threads": 0}, "takes 1 thread or more, not 0"),
        ("bert_layer", {"x": np.zeros((2, 3, 4, 32), F32)}, "should be .B, T, C."),
        ("bert_layer", {"x": np.zeros((2, 0, 32), F32)}, "should be .B, T, C."),
        ("bert_layer", {"mask": np.zeros((1, 1, 1, 5), F32)}, "mask has shape"),
        ("bert_layer", {"heads": 3}, "3 heads of 32 channels"),
        ("bert_layer", {"hidden": 24}, "24 hidden"),
        ("bert_layer", {"parameters": []}, "are 0 arrays and should be 12"),
        ("bert_layer", {"limits": (1.0,)}, "reshape"),
        ("dyconv", {"threads": -1}, "takes 1 thread or more, not -1"),
        ("dyconv", {"sizes": []}, "at least one"),
        ("dyconv", {"sizes": [(3, 5), (0, 3)]}, "at least one"),
        ("dyconv", {"sizes": [(-3, -5), (2, 3)]}, "at least one"),
        ("dyconv", {"sizes": [(2, 3), (3, 5)]}, "none larger than before"),
        ("dyconv", {"features": []}, "features are one"),
        ("dyconv", {"out": []}, "are 0 arrays and should be 1"),
        ("dyconv", {"parameters": []}, "are 0 arrays and should be 20"),
        ("dyconv", {"groups": 0}, "in 0 groups"),
        ("dyconv", {"groups": 3}, "in 3 groups"),
        ("dyconv", {"epsilon": (1.0, 1.0)}, "reshape"),
        ("bi_attention", {"threads": 0}, "takes 1 thread or more"),
        ("bi_attention", {"mask": np.zeros((2, 1, 1, 0), F32)}, r"should be \(B, N, C\)"),
        ("bi_attention", {"mask": np.zeros((2, 1, 1, 4), F32)}, "no whole number of heads of 4 tokens"),
        ("bi_attention", {"mask": np.zeros((1, 1, 1, 5), F32)}, "mask has shape"),
    ],
)
def test_numbers_that_do_not_fit_are_a_value_error(
    kernels: Kernels, kernel: str, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(kernels, kernel)(**{**ARGUMENTS[kernel](kernels), **change})
    assert kernels._library.calls == []


@pytest.mark.parametrize("kernel", ARGUMENTS)
def test_int16_without_int16_is_a_value_error(kernels: Kernels, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the two differ in size: one would be read beyond its end."""
    monkeypatch.setattr(kernels, "has_int16", False)
    arguments = {**ARGUMENTS[kernel](kernels), "precision": "int16"}
    if kernel == "dyconv":
        for convolution in range(3):
            arguments["parameters"][4 * convolution] = arguments["parameters"][4 * convolution][::2].copy()
    with pytest.raises(ValueError, match="these kernels have no int16"):
        getattr(kernels, kernel)(**arguments)
    assert kernels._library.calls == []


def test_a_precision_that_there_is_not_is_a_value_error(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "has_int8", False)
    for precision, words in (
        ("fp16", "no precision 'fp16': choose one of fp32, int16, int8"),
        ("int8", "have no int8"),
    ):
        with pytest.raises(ValueError, match=words):
            kernels.dyconv(**{**dyconv_arguments(kernels), "precision": precision})
        with pytest.raises(ValueError, match=words):
            kernels.pack_deform_conv(np.zeros((kernels.panel, kernels.panel, 3, 3), F32), precision)
    monkeypatch.setattr(kernels, "has_int16", False)
    for precision, words in (("fp16", "one of fp32, int16, int8"), ("int8", "no int8"), ("int16", "no int16")):
        with pytest.raises(ValueError, match=words):
            kernels.bi_attention(**{**bi_attention_arguments(kernels), "precision": precision})
    assert kernels._library.calls == []


def test_weights_that_cannot_be_packed(kernels: Kernels) -> None:
    panel = kernels.panel
    for call in (
        lambda: kernels.pack_layer((np.zeros(4, F32), np.zeros(4, F32)), "fp32"),
        lambda: kernels.pack_layer((np.zeros((0, 4), F32), np.zeros(0, F32)), "fp32"),
        lambda: kernels.pack_layer((np.zeros((4, 4), F32), np.zeros(3, F32)), "fp32"),
        lambda: kernels.pack_deform_conv(np.zeros((panel + 1, panel + 1, 3, 3), F32), "fp32"),
        lambda: kernels.pack_deform_conv(np.zeros((panel, panel, 3, 2), F32), "fp32"),
        lambda: kernels.pack_offset_conv(np.zeros((26, panel, 3, 3), F32), np.zeros(26, F32)),
        lambda: kernels.pack_offset_conv(np.zeros((27, panel, 3, 3), F32), np.zeros(26, F32)),
    ):
        with pytest.raises(ValueError, match=r"and should|no multiple of"):
            call()
    with pytest.raises(ctypes.ArgumentError, match="float64"):
        kernels.pack_layer((np.zeros((4, 4)), np.zeros(4, F32)), "fp32")
    assert kernels._library.calls == []


def test_every_function_of_the_library_has_its_parameters_declared() -> None:
    """The C functions of the sources are those that are declared to ctypes, with as many parameters."""
    folder = Path(native.__file__).parent
    declared = {}
    for source in folder.glob("*.cpp"):
        text = source.read_text().partition('extern "C" {')[2]
        for name, parameters in re.findall(r"^\w[\w ]*?(\bglip_\w+)\(([^)]*)\)", text, re.MULTILINE):
            declared[name] = len([part for part in parameters.split(",") if part.strip()])
    assert declared == {name: len(parameters) for name, (_, parameters) in _SIGNATURES.items()}
