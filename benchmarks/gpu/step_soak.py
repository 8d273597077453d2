"""Many runs of changing shapes and prompts, as a service has them: the same answers each time, and nothing that grows.

Two backends share the step's time. Every question is asked again and again in no order; its first answer is what all
later ones are held to, to the bit. There are more shapes than CUDA graphs are kept, so that they come and go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from context import Context, FailedError, Part
from models import DEMO, bundle_of

if TYPE_CHECKING:
    from glip_export.parity.run import ChunkOutputs, Inputs

BACKENDS = ("torch:cuda:fp16", "stand-in:fp16")
SIZES = ((320, 320), (256, 320), (320, 256), (320, 416), (224, 320), (192, 192))  # H, W
BATCHES, PROMPTS = (1, 2), ("cat. dog", "red car. blue ball. tree. house. bird")
REHEARSED_SIZES, REHEARSED_SECONDS = ((96, 96), (64, 128)), 15.0
EVERY = 20  # runs between two looks at the memory
LIMITS_MB = {"device": 8.0, "torch_reserved": 64.0, "driver_used": 64.0, "host": 200.0}  # later growth


def parts(context: Context) -> list[Part]:
    """Both, the second with the time that the first left."""
    return [
        (backend.replace(":", "-"), partial(_measure, context, backend, len(BACKENDS) - place))
        for place, backend in enumerate(BACKENDS)
    ]


def _measure(context: Context, backend: str, left: int) -> dict[str, Any]:
    """left: how many parts share what is left of the step's time."""
    seconds = 0.8 * context.seconds_left / left
    until = time.time() + (min(REHEARSED_SECONDS, seconds) if context.rehearsal else seconds)
    questions = list(_questions(context))
    with context.session(bundle_of(context, DEMO), backend) as session:
        found = soak(session, questions, lambda: time.time() > until, partial(_memory, context, session))
    problems = found["problems"]
    line = f"{found['runs']} runs of {len(questions)} questions, {len(problems)} problems; {_grown(found['grown'])}"
    if problems:
        raise FailedError(f"{problems[0]}; {line}", {"line": line, **found})
    return {"line": line, **found}


def soak(
    session: Any, questions: list[Inputs], is_over: Callable[[], bool], memory: Callable[[], dict[str, float]]
) -> dict[str, Any]:
    """Runs until it is over, each question three times at least.

    Flat is a memory whose largest value in the second half of the runs is not above the largest in the first by more
    than LIMITS_MB.
    """
    from glip_export.parity.run import run

    generator = np.random.default_rng(0)
    first: dict[int, list[list[np.ndarray]]] = {}
    looks: list[dict[str, float]] = []
    problems: list[str] = []
    runs = unequal = 0
    largest = 0.0
    least = 3 * len(questions)
    while runs < least or not is_over():
        order = generator.permutation(len(questions))
        for which in order.tolist():
            answer = [_answer(chunk) for chunk in run(session, questions[which]).chunks]
            difference = _difference(first.setdefault(which, answer), answer)
            unequal += difference > 0
            largest = max(largest, difference)
            runs += 1
            if runs % EVERY == 0 or runs == least:
                looks.append(memory())
            if runs >= least and is_over():
                break
    if unequal:
        problems.append(f"{unequal} of {runs} answers are not the first of their question, by up to {largest:.2g}")
    grown = growth(looks)
    problems += [f"{name} memory grew by {grown[name]:.1f} MB" for name in grown if grown[name] > LIMITS_MB[name]]
    told = session.describe()
    problems += [f"no CUDA graph of {name}: {why}" for name, why in told["cuda_graph_trouble"].items()]
    return {"runs": runs, "grown": grown, "looks": looks[:: max(1, len(looks) // 50)], "session": told} | {
        "problems": problems,
        "unequal": unequal,
        "largest_difference": largest,
    }


def growth(looks: list[dict[str, float]]) -> dict[str, float]:
    """MB by which the largest value of the second half is above the first half's; {} of fewer than two."""
    half = len(looks) // 2
    if not half:
        return {}
    return {
        name: max(look[name] for look in looks[half:]) - max(look[name] for look in looks[:half]) for name in looks[0]
    }


def _questions(context: Context) -> Iterator[Inputs]:
    """Noise of every size, batch and prompt."""
    from glip_export.image import ImageConfig
    from glip_export.parity.cases import Case

    generator = np.random.default_rng(1)
    config = bundle_of(context, DEMO).config
    for size, batch, prompt in product(REHEARSED_SIZES if context.rehearsal else SIZES, BATCHES, PROMPTS):
        pictures = tuple(generator.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(batch))
        image = ImageConfig(min_size=min(size), max_size=max(size))
        yield Case(f"{size}", pictures, prompt, image).inputs(config)


def _answer(chunk: ChunkOutputs) -> list[np.ndarray]:
    return [np.array(array) for array in (chunk.boxes, chunk.scores, chunk.labels, chunk.count)]


def _difference(first: list[list[np.ndarray]], answer: list[list[np.ndarray]]) -> float:
    """The largest; infinite where a shape or a label is another, or a value is none."""
    largest = 0.0
    for ones, others in zip(first, answer, strict=True):
        if all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True)):
            continue
        labels = np.array_equal(ones[2], others[2]) and np.array_equal(ones[3], others[3])
        distances = [float(np.abs(one - other).max()) for one, other in zip(ones[:2], others[:2], strict=True)]
        largest = max(largest, max(distances) if labels and np.isfinite(distances).all() else float("inf"))
    return largest


def _memory(context: Context, session: Any) -> dict[str, float]:
    """MB: our pool's, PyTorch's, the driver's, and this process's on the host."""
    import torch

    found = {"device": session.describe()["device_memory_mb"], "host": _resident_mb()}
    if not context.rehearsal:
        free, total = torch.cuda.mem_get_info()
        found |= {"torch_reserved": torch.cuda.memory_reserved() / 1e6, "driver_used": (total - free) / 1e6}
    return found


def _resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def _grown(grown: dict[str, float]) -> str:
    return "grown by " + ", ".join(f"{name} {value:.1f} MB" for name, value in grown.items())
