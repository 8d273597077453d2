"""The peak: only of what the processor has, and never longer than its budget, however slow a product is."""

from __future__ import annotations

import pytest

from glip_export.bench import matmul_peak as module
from glip_export.bench.matmul_peak import BUDGET, SIZES, best_speed, fastest, matmul_peak
from glip_export.runtime.cpu import cpu_features, why_no_bf16


class Machine:
    """A clock that only products move, at so many GFLOP/s."""

    def __init__(self, gflops: float) -> None:
        self.gflops = gflops
        self.now = 0.0
        self.sizes: list[int] = []

    def product(self, n: int):
        def run() -> None:
            self.sizes.append(n)
            self.now += 2 * n**3 / self.gflops / 1e9

        return run


def test_a_quick_machine_is_measured_at_every_size() -> None:
    machine = Machine(500.0)
    assert best_speed(machine.product, 1.0, lambda: machine.now) == pytest.approx(500.0)
    assert set(machine.sizes) == set(SIZES) and machine.now <= 1.0


@pytest.mark.parametrize("gflops", [0.5, 3.0, 20.0, 70.0])
def test_no_size_is_begun_that_would_not_end_in_time(gflops: float) -> None:
    machine = Machine(gflops)
    assert best_speed(machine.product, 1.0, lambda: machine.now) == pytest.approx(gflops)
    assert machine.now <= 1.0
    assert 2048 not in machine.sizes or gflops > 30


def test_bf16_is_not_measured_where_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset({"avx2", "fma"}))
    monkeypatch.setattr(module, "BUDGET", 0.05)
    asked = []
    monkeypatch.setattr(module, "_torch_product", lambda n, dtype: asked.append(dtype) or (lambda: None))
    peak = matmul_peak(1)
    assert peak["fp32"] > 0 and peak["bf16"] is None and peak["bf16_by"] is None
    assert peak["not_measured"]["bf16"] == "this CPU has no bf16 products"
    assert {str(dtype) for dtype in asked} == {"torch.float32"}


def test_products_that_turn_out_emulated_are_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not tell what the CPU has."""
    speeds = {"fp32": 340.0, "bf16": 5.0, "int8": 700.0}
    monkeypatch.setattr(module, "cpu_features", lambda: None)
    monkeypatch.setattr(module, "_products", lambda precision, threads: ({"fake": precision}, ""))
    monkeypatch.setattr(module, "best_speed", lambda product, budget: speeds[product])
    peak = matmul_peak()
    assert (peak["fp32"], peak["bf16"]) == (340.0, None)
    assert "68 times slower" in peak["not_measured"]["bf16"]


@pytest.mark.parametrize(
    ("features", "environment", "told"),
    [
        ({"avx2", "avx512_bf16"}, {}, ""),
        ({"asimd", "bf16"}, {}, ""),
        (None, {}, ""),
        ({"avx2"}, {}, "no bf16"),
        ({"avx2", "avx512f", "avx512_vnni"}, {}, "no bf16"),
        ({"avx512_bf16"}, {"ONEDNN_MAX_CPU_ISA": "avx2"}, "ONEDNN_MAX_CPU_ISA=avx2 hides"),
        ({"avx512_bf16"}, {"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, "hides"),
        ({"avx512_bf16"}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, ""),
        ({"avx512_bf16"}, {"ATEN_CPU_CAPABILITY": "avx2"}, "hides"),
        ({"avx512_bf16"}, {"ATEN_CPU_CAPABILITY": "avx512"}, ""),
        ({"avx512_bf16"}, {"GLIP_EXPORT_CPU_ISA": "avx512"}, "hides"),
        ({"avx512_bf16"}, {"GLIP_EXPORT_CPU_ISA": "native"}, ""),
    ],
)
def test_what_the_cpu_has_and_what_hides_it(features: set[str] | None, environment: dict[str, str], told: str) -> None:
    why = why_no_bf16(None if features is None else frozenset(features), environment)
    assert told in why and bool(why) == bool(told)


def test_the_features_are_read_from_linux(tmp_path) -> None:
    (tmp_path / "x86").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert cpu_features(tmp_path / "x86") == {"fpu", "avx2", "avx512_bf16"}
    assert cpu_features(tmp_path / "arm") == {"fp", "asimd", "bf16"}
    assert cpu_features(tmp_path / "none") is None


def test_the_peak_is_the_best_of_its_measurements() -> None:
    before = {"fp32": 100.0, "fp32_by": "numpy", "bf16": 300.0, "bf16_by": "torch.mm", "not_measured": {}}
    before |= {"int8": 600.0, "int8_by": "torch._int_mm"}
    after = {**before, "fp32": 90.0, "bf16": 400.0, "bf16_by": "torch 1x1 convolution"}
    assert fastest(before, after) == {**before, "bf16": 400.0, "bf16_by": "torch 1x1 convolution"}
    none = {**before, "bf16": None, "bf16_by": None, "not_measured": {"bf16": "none here"}}
    assert fastest(none)["not_measured"] == {"bf16": "none here"} and fastest(none)["bf16"] is None
    assert fastest(none, before) == before


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(module, "BUDGET", BUDGET / 10)
    peak = matmul_peak()
    assert peak["fp32"] > 0
    for precision in ("bf16", "int8"):
        assert (peak[precision] is None) == (precision in peak["not_measured"])


def test_products_of_whole_numbers_are_exact_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    products, why_not = module._int8_products()
    assert bool(products) == (not why_not)
    for product in products.values():
        assert product(64)().shape == (64, 64)
    if "torch._int_mm" in products:
        right = torch._int_mm
        monkeypatch.setattr(torch, "_int_mm", lambda left, weight: right(left, weight) + 1)  # as one that saturates
        assert "torch._int_mm" not in module._int8_products()[0]
