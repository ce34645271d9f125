"""Decisions for hardware that is not here: a torch that answers as it would there."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks import device
from tasks.device import _pick, products_per_second


def make_torch(cuda: str = "", cuda_bf16: bool = True, metal: bool = False, macos_14: bool = True, cpu_bf16: bool = False) -> Any:
    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: bool(cuda),
            get_device_name=lambda: cuda,
            is_bf16_supported=lambda including_emulation: cuda_bf16,
        ),
        backends=SimpleNamespace(
            mps=SimpleNamespace(is_available=lambda: metal, is_macos_or_newer=lambda *version: macos_14),
            mkldnn=SimpleNamespace(is_available=lambda: True),
        ),
        cpu=SimpleNamespace(_is_avx512_bf16_supported=lambda: cpu_bf16, _is_amx_tile_supported=lambda: False),
        ops=SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)),
    )


@pytest.fixture
def ratio(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how many times as fast bfloat16 is."""

    def set_ratio(times: float) -> None:
        monkeypatch.setattr(device, "products_per_second", lambda torch, dtype, name: times if dtype == "bfloat16" else 1.0)

    return set_ratio


def test_cuda_comes_first_and_multiplies_bfloat16_where_it_is_not_emulated() -> None:
    found = _pick(make_torch("H100", metal=True), "")
    assert (found.name, found.dtype) == ("cuda", "bfloat16")
    assert "H100" in found.reason
    assert _pick(make_torch("T4", cuda_bf16=False), "").dtype == "float32"


@pytest.mark.parametrize(("times", "dtype"), [(2.2, "bfloat16"), (1.0, "float32"), (0.5, "float32")])
def test_the_processor_takes_bfloat16_only_where_it_is_measured_to_be_faster(ratio: Any, times: float, dtype: str) -> None:
    ratio(times)
    found = _pick(make_torch(cpu_bf16=True), "")
    assert (found.name, found.dtype) == ("cpu", dtype)
    assert f"{times:.1f} times" in found.reason


def test_metal_takes_bfloat16_where_the_system_has_it_and_it_pays(ratio: Any) -> None:
    ratio(1.5)
    assert _pick(make_torch(metal=True), "").dtype == "bfloat16"
    assert _pick(make_torch(metal=True, macos_14=False), "").dtype == "float32"
    ratio(0.9)
    assert _pick(make_torch(metal=True), "").dtype == "float32"


def test_a_processor_without_bfloat16_is_not_measured_and_the_operator_can_force_both() -> None:
    assert _pick(make_torch(), "").dtype == "float32"
    forced = _pick(make_torch("H100"), "cpu", "bfloat16")
    assert (forced.name, forced.dtype) == ("cpu", "bfloat16")
    assert "BAKEOFF_DEVICE" in forced.reason
    assert "BAKEOFF_DTYPE" in forced.reason


def test_measuring_products_gives_a_rate_and_leaves_the_threads_as_they_were() -> None:
    import torch

    threads = torch.get_num_threads()
    assert products_per_second(torch, "float32", size=64, tries=2) > 1e6
    assert torch.get_num_threads() == threads
