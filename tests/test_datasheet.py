"""Data sheets: every figure is plausible, each device is known by the name it reports, and no other takes its figures."""

import re

import pytest

from nanobench.errors import UserError
from nanobench.roofline import datasheet

GIB = 1 << 30
SHEETS = datasheet.sheets()
FLOPS_PER_BYTE = {"float32": (5, 150), "tf32": (30, 250), "bfloat16": (50, 500), "float16": (50, 500)}
GPUS = [key for key, sheet in SHEETS.items() if sheet.flops]
CPUS = [key for key in SHEETS if key not in GPUS]
REPORTED = {
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-PCIE-40GB": "a100-40gb-pcie",
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA A100 80GB PCIe": "a100-80gb-pcie",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H100 NVL": "h100-nvl",
    "NVIDIA H200": "h200",
    "NVIDIA H200 NVL": "h200-nvl",
    "NVIDIA GH200 480GB": "gh200",
    "NVIDIA B200": "b200",
    "NVIDIA L4": "l4",
    "NVIDIA L40": "l40",
    "NVIDIA L40S": "l40s",
    "NVIDIA A10": "a10",
    "NVIDIA A10G": "a10g",
    "NVIDIA A30": "a30",
    "NVIDIA A40": "a40",
    "Tesla T4": "t4",
    "Tesla V100-SXM2-16GB": "v100-16gb",
    "Tesla V100-SXM2-32GB": "v100-32gb",
    "Tesla V100-PCIE-16GB": "v100-16gb-pcie",
    "Tesla V100-PCIE-32GB": "v100-32gb-pcie",
    "Tesla V100S-PCIE-32GB": "v100s",
    "NVIDIA GeForce RTX 3090": "rtx-3090",
    "GeForce RTX 3090": "rtx-3090",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA GeForce RTX 5090": "rtx-5090",
    "NVIDIA RTX A5000": "rtx-a5000",
    "NVIDIA RTX A6000": "rtx-a6000",
    "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada",
    "AMD Instinct MI300X": "mi300x",
    "AMD Instinct MI300X OAM": "mi300x",
    "AMD EPYC 7742 64-Core Processor": "epyc-7742",
    "AMD EPYC 7763 64-Core Processor": "epyc-7763",
    "AMD EPYC 9654 96-Core Processor": "epyc-9654",
    "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz": "xeon-8380",
    "Intel(R) Xeon(R) Platinum 8480+": "xeon-8480",
}
STRANGERS = [
    "",
    "cpu",
    "NVIDIA",
    "AMD EPYC",
    "AMD EPYC 7763",
    "AMD EPYC 7R13 Processor",
    "Intel(R) Xeon(R) Processor @ 2.50GHz",
    "NVIDIA A100-SXM-64GB",
    "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
    "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    "NVIDIA A800-SXM4-80GB",
    "NVIDIA H20",
    "NVIDIA H200 NVL 8",
    "NVIDIA L40G",
    "NVIDIA A10-24Q",
    "NVIDIA A1000",
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 5090 Laptop GPU",
    "NVIDIA Tesla T4G",
    "Quadro RTX 6000",
]


# Names


@pytest.mark.parametrize(("reported", "key"), REPORTED.items())
def test_a_device_is_known_by_the_name_it_reports_and_by_its_short_one(reported, key):
    assert datasheet.find(reported) is datasheet.named(key)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_slices_mobile_sisters_and_the_unknown_have_no_sheet(stranger):
    assert datasheet.find(stranger) is None


@pytest.mark.parametrize("reported", [*REPORTED, *STRANGERS])
def test_no_name_fits_two_sheets(reported):
    assert len([key for key, sheet in SHEETS.items() if re.fullmatch(sheet.match, reported)]) <= 1


def test_every_sheet_has_a_reported_name_here():
    assert set(REPORTED.values()) == set(datasheet.names())


def test_an_unknown_short_name_is_answered_with_the_one_that_was_meant():
    with pytest.raises(UserError, match=r"unknown datasheet 'H200'; did you mean 'h200'\? \(available: a100-40gb, "):
        datasheet.named("H200")


@pytest.mark.parametrize(("name", "variant"), [("a100", "a100-80gb"), ("v100", "v100-32gb")])
def test_a_name_without_a_variant_stands_for_the_sxm_device_with_the_most_memory(name, variant):
    sheet = datasheet.named(name)
    assert sheet is datasheet.named(variant)
    others = [SHEETS[key] for key in datasheet.variants(name)]
    assert sheet.memory_bytes == max(each.memory_bytes for each in others)
    assert "SXM" in sheet.name
    assert len(others) == 4


def test_a_name_that_only_begins_several_others_is_answered_with_them():
    with pytest.raises(UserError, match=r"^rtx has several datasheets; give one of rtx-3090, rtx-4090, .*rtx-6000-ada$"):
        datasheet.named("rtx")


def test_short_names_are_taken_before_names_that_stand_for_others():
    shorter = [sheet.also for sheet in SHEETS.values() if sheet.also]
    assert len(shorter) == len(set(shorter))
    assert not set(shorter) & set(SHEETS)
    with pytest.raises(UserError, match="unknown datasheet ''"):
        datasheet.named("")


# Figures


@pytest.mark.parametrize("key", SHEETS)
def test_short_names_can_be_typed_and_sources_are_dated(key):
    assert re.fullmatch(r"[a-z0-9-]+", key)
    assert re.search(r"\b20[12]\d\b", SHEETS[key].source)
    assert SHEETS[key].source.split()[0] == SHEETS[key].name.split()[0], "a maker speaks of its own device"


@pytest.mark.parametrize("key", GPUS)
def test_a_gpu_has_plausible_figures(key):
    sheet = SHEETS[key]
    gib, rest = divmod(sheet.memory_bytes, GIB)
    assert rest == 0
    assert 16 <= gib <= 192
    assert 0.3e12 <= sheet.bytes_per_s <= 8e12
    assert 0.01 < sheet.memory_bytes / sheet.bytes_per_s < 0.1, "seconds to read all of it"
    assert sheet.power_w is None or 70 <= sheet.power_w <= 1000


@pytest.mark.parametrize("key", GPUS)
def test_a_gpu_multiplies_faster_the_fewer_the_digits(key):
    flops = SHEETS[key].flops
    assert list(flops) == [dtype for dtype in FLOPS_PER_BYTE if dtype in flops]
    assert list(flops.values()) == sorted(flops.values())
    assert flops.get("bfloat16", flops["float16"]) == flops["float16"]
    for dtype, value in flops.items():
        low, high = FLOPS_PER_BYTE[dtype]
        assert low < value / SHEETS[key].bytes_per_s < high


@pytest.mark.parametrize("key", [key for key in GPUS if "tf32" in SHEETS[key].flops])
def test_tf32_is_half_as_fast_as_bfloat16(key):
    """Unless one of the two was read with sparsity and the other without."""
    assert SHEETS[key].flops["bfloat16"] / SHEETS[key].flops["tf32"] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("key", CPUS)
def test_a_cpu_has_the_bandwidth_of_its_channels_and_no_more(key):
    channels, megatransfers = map(int, re.search(r"(\d+) channels of DDR\d-(\d+)", SHEETS[key].source).groups())
    assert SHEETS[key].bytes_per_s == pytest.approx(channels * megatransfers * 1e6 * 8)
    assert (SHEETS[key].flops, SHEETS[key].memory_bytes) == ({}, None)


def test_old_tensor_cores_know_neither_bfloat16_nor_tf32():
    for key in ("t4", "v100-16gb", "v100s"):
        assert set(SHEETS[key].flops) == {"float32", "float16"}


def test_the_a100_is_the_one_that_the_seeds_describe():
    sheet = datasheet.named("a100-80gb")
    assert (sheet.bytes_per_s, sheet.flops["bfloat16"], sheet.power_w) == (2.039e12, 312e12, 400)
