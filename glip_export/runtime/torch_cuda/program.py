"""An ONNX graph as a program of PyTorch calls, one for each set of input shapes.

The first run of a set of shapes goes through the graph node by node and remembers the calls; later runs make the calls
alone. What follows from shapes (sizes, axes, window masks) is computed once, on the host, and stands in the calls as
numbers or constants, so that no later run waits for the device and all of it can become a CUDA graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import numpy as np
import onnx_ir
import torch

from glip_export.errors import BackendError
from glip_export.graphs.modules import MODULE_KEY
from glip_export.runtime.session import one_line
from glip_export.runtime.torch_cuda.functions import alias
from glip_export.runtime.torch_cuda.operators import DTYPES, OPERATORS

KEPT_PLANS = 64  # sets of shapes; one takes about a megabyte of the host's memory

_TAKE_NUMBERS = frozenset({"Add", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Pow", "Sub"})

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Slot:
    """An argument of a call: what an earlier call gave, or an input."""

    number: int


@dataclass(frozen=True)
class Step:
    """One call; its results go into `outputs`, and what no later call reads is let go of."""

    function: Any
    arguments: tuple[Any, ...]
    outputs: tuple[int, ...]
    source: str  # the module of the model that it came from, or the node's operator
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Known:
    """A value that follows from shapes and constants alone; a tensor on the host."""

    value: torch.Tensor


class Program:
    """One graph on one device, with its weights there.

    The graph is one that `trt/lowering.py` made, with both plugin nodes; it may hold nodes of `fuse_dyconv`. Its types
    are kept as they are. Raises BackendError for an operator, or a form of one, that a GLIP's graphs do not have.
    """

    def __init__(self, model: onnx_ir.Model, device: torch.device, compiler: str = "") -> None:
        """compiler: a backend of torch.compile ("inductor") for the calls of each plan, or "" for none."""
        self.device = device
        self.compiler = compiler
        graph = model.graph
        self.inputs = [str(value.name) for value in graph.inputs]
        self.outputs = [str(value.name) for value in graph.outputs]
        self.plans: OrderedDict[Shapes, Plan] = OrderedDict()
        self.constants: dict[str, torch.Tensor | Known] = {}
        for name, value in graph.initializers.items():
            self.constants[name] = self._constant(value)
        self.nodes = self._folded(graph)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # the runs are on another stream

    def plan(self, shapes: Shapes) -> Plan:
        """The calls for inputs of these shapes; the KEPT_PLANS last used are kept."""
        if shapes not in self.plans:
            self.plans[shapes] = Plan(self)
            while len(self.plans) > KEPT_PLANS:
                self.plans.popitem(last=False)
        self.plans.move_to_end(shapes)
        return self.plans[shapes]

    def on_device(self, value: torch.Tensor | Known) -> torch.Tensor:
        """The tensor where the calls need it."""
        return value.value.to(self.device) if isinstance(value, Known) else value

    def _constant(self, value: onnx_ir.Value) -> torch.Tensor | Known:
        """Weights go to the device; whole numbers and single numbers stay on the host, to become sizes and factors."""
        if value.const_value is None or value.dtype not in DTYPES:
            raise BackendError(f"the graph's constant {value.name} is {value.dtype}, which torch:cuda does not take")
        tensor = _to_torch(value.const_value)
        if not tensor.is_floating_point() or tensor.numel() == 1 or _is_static(value):
            return Known(tensor)
        tensor = tensor.to(self.device)
        convolves = tensor.ndim == 4 and any(node.op_type == "Conv" for node, _ in value.uses())
        return tensor.contiguous(memory_format=torch.channels_last) if convolves else tensor

    def _folded(self, graph: onnx_ir.Graph) -> list[onnx_ir.Node]:
        """The nodes that depend on inputs; what the others give is computed now."""
        kept = []
        for node in graph:
            if node.op_type == "Constant":
                self.constants[str(node.outputs[0].name)] = Known(_attribute_tensor(node))
            elif all(value is None or value.name in self.constants for value in node.inputs):
                arguments = [None if value is None else self.constants[str(value.name)] for value in node.inputs]
                for value, result in zip(node.outputs, apply(self, node, arguments)[1], strict=True):
                    self.constants[str(value.name)] = result
            else:
                kept.append(node)
        read = {name for node in kept for name in _names(node.inputs)} | set(self.outputs)
        self.constants = {name: value for name, value in self.constants.items() if name in read}
        return kept


class Plan:
    """The calls of a program for one set of input shapes, known after the first run."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._steps: list[Step] = []
        self._start: list[Any] = []  # every slot's value before a run: constants, else None
        self._results: list[int] = []
        self._compiled: Any = None
        self.traced = False

    def run(
        self, inputs: Mapping[str, torch.Tensor], before_step: Callable[[Step], None] | None = None
    ) -> list[torch.Tensor]:
        """The graph's outputs, in its order; views of inputs or of each other are possible.

        before_step: called before each call of a run that is not the first, for measurements.
        """
        if not self.traced:
            results = self._trace(inputs)
            if not self._program.compiler:
                return results
        if self._compiled is not None:
            return list(self._compiled(*(inputs[name] for name in self._program.inputs)))
        values = list(self._start)
        values[: len(inputs)] = [inputs[name] for name in self._program.inputs]
        for step in self._steps:
            if before_step is not None:
                before_step(step)
            given = step.function(*(values[a.number] if type(a) is Slot else a for a in step.arguments))
            if len(step.outputs) == 1:
                values[step.outputs[0]] = given
            else:
                for number, value in zip(step.outputs, given, strict=True):
                    values[number] = value
            for number in step.frees:
                values[number] = None
        return [values[number] for number in self._results]

    def graph_module(self) -> torch.fx.GraphModule:
        """The calls as a module of PyTorch, for torch.compile."""
        graph, module = torch.fx.Graph(), torch.nn.Module()
        nodes: dict[int, Any] = {n: graph.placeholder(name) for n, name in enumerate(self._program.inputs)}
        for number, value in enumerate(self._start):
            if value is not None:
                module.register_buffer(f"constant_{number}", value)
                nodes[number] = graph.get_attr(f"constant_{number}")
        for step in self._steps:
            arguments = tuple(nodes[a.number] if isinstance(a, Slot) else a for a in step.arguments)
            made = graph.call_function(step.function, arguments)
            for place, number in enumerate(step.outputs):
                nodes[number] = made if len(step.outputs) == 1 else graph.call_function(getitem, (made, place))
        graph.output(tuple(nodes[number] for number in self._results))
        return torch.fx.GraphModule(module, graph)

    def _trace(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Runs the graph's nodes, and remembers the calls that depend on the inputs' values."""
        program = self._program
        values: dict[str, torch.Tensor | Known] = {**program.constants, **inputs}
        left = _uses(program)
        recorder = _Recorder(inputs, program.inputs)
        for node in program.nodes:
            arguments = [None if value is None else values[str(value.name)] for value in node.inputs]
            call, results = apply(program, node, arguments)
            for value, result in zip(node.outputs, results, strict=True):
                values[str(value.name)] = result
            if call is not None:
                source = node.metadata_props.get(MODULE_KEY) or node.op_type
                recorder.add(call, [result for result in results if isinstance(result, torch.Tensor)], source)
            for name in _names(node.inputs):
                left[name] -= 1
                if not left[name]:
                    recorder.release(values.pop(name))
        outputs = [program.on_device(values[name]) for name in program.outputs]
        self._results = [recorder.slot(output).number for output in outputs]
        self._steps, self._start = recorder.finished(self._results)
        self.traced = True
        if program.compiler:
            self._compiled = torch.compile(self.graph_module(), backend=program.compiler, dynamic=False, fullgraph=True)
        return outputs


class _Recorder:
    """Gives every tensor that calls pass on a slot, and notes the calls."""

    def __init__(self, inputs: Mapping[str, torch.Tensor], order: Sequence[str]) -> None:
        self._numbers: dict[int, int] = {}  # by the tensor's identity, while it lives
        self._alive: dict[int, torch.Tensor] = {}
        self._start: list[Any] = []
        self._calls: list[tuple[Any, tuple[Any, ...], tuple[int, ...], str]] = []
        for name in order:
            self._new(inputs[name], None)

    def add(self, call: tuple[Any, ...], results: Sequence[torch.Tensor], source: str) -> None:
        """A call that was made, what it gave, and where it came from."""
        function, *arguments = call
        slots = tuple(self.slot(a) if isinstance(a, torch.Tensor) else a for a in arguments)
        self._calls.append((function, slots, tuple(self._new(result, None) for result in results), source))

    def slot(self, tensor: torch.Tensor) -> Slot:
        """The tensor's slot; one that no call gave is a constant."""
        if id(tensor) not in self._numbers:
            self._new(tensor, tensor)
        return Slot(self._numbers[id(tensor)])

    def release(self, value: torch.Tensor | Known) -> None:
        """No node reads the value any more: its memory may be used again."""
        if isinstance(value, Known):
            return
        if self._start[self.slot(value).number] is None:
            del self._numbers[id(value)], self._alive[id(value)]

    def finished(self, results: Sequence[int]) -> tuple[list[Step], list[Any]]:
        """The steps, and every slot's value before the first."""
        last: dict[int, int] = {}
        for place, (_, arguments, outputs, _) in enumerate(self._calls):
            last.update(dict.fromkeys((a.number for a in arguments if isinstance(a, Slot)), place))
            last.update(dict.fromkeys(outputs, place))
        frees: list[list[int]] = [[] for _ in self._calls]
        for number, place in last.items():
            if self._start[number] is None and number not in results:
                frees[place].append(number)
        steps = [Step(*call, tuple(free)) for call, free in zip(self._calls, frees, strict=True)]
        return steps, self._start

    def _new(self, tensor: torch.Tensor, constant: torch.Tensor | None) -> int:
        number = len(self._start)
        self._numbers[id(tensor)] = number
        self._alive[id(tensor)] = tensor  # so that no other gets its identity
        self._start.append(constant)
        return number


def apply(
    program: Program, node: onnx_ir.Node, arguments: Sequence[torch.Tensor | Known | None]
) -> tuple[tuple[Any, ...] | None, list[torch.Tensor | Known]]:
    """Runs a node: the call that was made, or None if its results follow from shapes alone, and the results."""
    operator = OPERATORS.get(node.op_type)
    known = node.op_type == "Shape" or all(a is None or isinstance(a, Known) for a in arguments)
    try:
        if operator is None:
            raise NotImplementedError(f"the operator {node.op_type}")
        given = [
            _as_given(program, node, place, argument, known, place in operator.static)
            for place, argument in enumerate(arguments)
        ]
        call = (operator.compiled if program.compiler else operator.handler)(node, *given)
        made = call[0](*call[1:])
        if any(made is argument for argument in given):  # a cast to its own type: two values are two tensors
            call = (alias, made)
            made = alias(made)
    except (NotImplementedError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BackendError(f"torch:cuda cannot run the node {node.name} ({node.op_type}): {one_line(error)}") from error
    results = [made] if isinstance(made, torch.Tensor) else list(made)
    if known:
        return None, [Known(result) for result in results]
    return call, results


def _as_given(
    program: Program, node: onnx_ir.Node, place: int, argument: torch.Tensor | Known | None, known: bool, static: bool
) -> Any:
    """An argument as the handler takes it: a list, a number, or a tensor on the host or the device."""
    if argument is None:
        return None
    if static:
        if not isinstance(argument, Known):
            raise NotImplementedError(f"input {place} of {node.op_type} made of a picture or prompt")
        return argument.value.reshape(-1).tolist()
    if known and isinstance(argument, Known):
        return argument.value
    if isinstance(argument, Known) and place == 1 and argument.value.numel() == 1 and node.op_type in _TAKE_NUMBERS:
        return argument.value.item()
    return program.on_device(argument)


def _is_static(value: onnx_ir.Value) -> bool:
    """Whether a node takes it as a list."""
    return any(node.op_type in OPERATORS and place in OPERATORS[node.op_type].static for node, place in value.uses())


def _uses(program: Program) -> dict[str, int]:
    """How often each value is read; the graph's outputs once more."""
    left: dict[str, int] = dict.fromkeys(program.outputs, 1)
    for node in program.nodes:
        for name in _names(node.inputs):
            left[name] = left.get(name, 0) + 1
    return left


def _names(values: Sequence[onnx_ir.Value | None]) -> list[str]:
    return [str(value.name) for value in values if value is not None]


def _attribute_tensor(node: onnx_ir.Node) -> torch.Tensor:
    """The value of a Constant, whichever attribute holds it."""
    (attribute,) = node.attributes.values()
    if attribute.name == "value":
        return _to_torch(attribute.as_tensor())
    value = attribute.value
    return torch.tensor(value if isinstance(value, int | float) else list(value))


def _to_torch(tensor: onnx_ir.TensorProtocol) -> torch.Tensor:
    """A copy of an ONNX tensor on the host; PyTorch reads no bfloat16 of NumPy."""
    array = np.array(tensor.numpy(), order="C")
    if tensor.dtype == onnx_ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
