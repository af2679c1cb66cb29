"""Predictions from costs and limits, compared with sums written out in the test."""

from dataclasses import replace

import pytest

from nanobench.roofline import flops, prediction
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limit, Limits, Unresolved
from nanobench.roofline.prediction import Operations, Time
from nanobench.schema import GPTShape, Point

SHAPE = GPTShape(
    architecture="gpt2", n_layer=2, n_head=2, n_kv_head=2, n_embd=8, vocab_size=100, block_size=64, n_params=10_000
)
POINT = Point(model="m", dtype="float32", device="cpu", threads=1, batch_size=3, prompt_len=4, new_tokens=3)
RATES = {"matmul": 1e6, "lm_head": 2e6, "attention": 4e6, "read": 1e30, "copy": 5e6, "elementwise": 6e6, "argmax": 7e6}
RATES |= {"operation": 1e-3}
OPERATIONS = Operations(prefill=20, step=10)


def limits(**others):
    return Limits(tuple(Limit(kind=kind, value=value, spread=0.0) for kind, value in {**RATES, **others}.items()))


def predict(kv_access="static", point=POINT, **others):
    return prediction.predict(SHAPE, point, kv_access, limits(**others), OPERATIONS)


def expected_s(one: Pass) -> float:
    """Seconds of a pass: each kind of work at its rate."""
    cost = flops.cost(SHAPE, "float32", one)
    head = 2.0 * one.rows * one.logits_positions * 8 * 100
    copied = 2.0 * one.rows * max(0, one.kv_written - one.tokens) * SHAPE.kv_bytes_per_token("float32")
    work = (cost.matmul_flops - head) / 1e6 + head / 2e6 + cost.attention_flops / 4e6
    return work + copied / 5e6 + cost.elementwise_bytes / 6e6 + cost.logits_bytes / 7e6


@pytest.mark.parametrize("path", flops.KV_ACCESS)
def test_on_a_cpu_dispatch_and_work_add_up(path):
    first, *others = flops.KV_ACCESS[path](POINT)
    found = predict(path)
    assert found.prefill.total_s == pytest.approx(20e-3 + expected_s(first))
    assert found.decode.total_s == pytest.approx(sum(10e-3 + expected_s(one) for one in others))
    assert found.tpot_s == pytest.approx(found.decode.total_s / 2)
    assert found.call.total_s == pytest.approx(found.prefill.total_s + found.decode.total_s)
    assert found.host_floor_s == pytest.approx(10e-3)


def test_on_a_gpu_the_slower_of_host_and_device_decides():
    gpu = replace(POINT, device="cuda")
    slow_host = predict(point=gpu, operation=1e6)
    assert slow_host.tpot_s == pytest.approx(1e7)
    assert slow_host.decode.bound_by == "host"
    slow_device = predict(point=gpu, operation=1e-30)
    assert slow_device.tpot_s == pytest.approx(expected_s(flops.static(gpu)[1]))
    assert slow_device.decode.host_s == 0


def test_a_lone_token_has_no_steps():
    found = predict(point=replace(POINT, new_tokens=1))
    assert found.tpot_s is None
    assert found.decode == Time()


def test_a_product_is_bound_by_bandwidth_where_its_bytes_alone_take_longer_than_its_operations():
    # One row reads 4 bytes for 2 operations: at 1e6 FLOP/s below 2e6 B/s that is memory's time.
    assert predict(read=1e5, elementwise=1e30, argmax=1e30).decode.bound_by == "bandwidth"
    assert predict(read=1e30, elementwise=1e30, argmax=1e30, operation=1e-30).decode.bound_by == "compute"


def test_a_layer_with_a_window_costs_what_it_attends_to_and_in_a_compiled_step_its_copy():
    windowed = replace(SHAPE, window=5, windowed_layers=1)

    def saved_s(kv_access):
        plain, less = (prediction.predict(shape, POINT, kv_access, limits(), OPERATIONS) for shape in (SHAPE, windowed))
        assert plain.prefill.total_s == pytest.approx(less.prefill.total_s)
        return plain.decode.total_s - less.decode.total_s

    # Steps over 5 and 6 positions; compiled ones over 7.
    assert saved_s("prefix") == pytest.approx(4 * 3 * 1 * 8 / 4e6)
    assert saved_s("static") == pytest.approx(2 * (4 * 3 * 2 * 8 / 4e6 - 2 * 3 * 5 * 16 * 4 / 5e6))


def test_a_slow_host_binds():
    assert predict(operation=1.0).decode.bound_by == "host"


def test_only_a_cache_that_grows_by_a_copy_pays_for_it():
    assert predict("static", copy=1e-9).call.total_s == pytest.approx(predict("static").call.total_s)
    assert predict("cat", copy=1e-9).decode.bandwidth_s > 1e9


def test_a_path_that_is_not_known_is_refused():
    with pytest.raises(KeyError):
        predict("magic")


def test_faster_limits_never_predict_a_longer_time():
    usual = predict().call.total_s
    assert all(predict(**{kind: 10 * RATES[kind]}).call.total_s <= usual for kind in RATES if kind != "operation")
    assert predict(operation=RATES["operation"] / 10).call.total_s < usual


def spread(spreads):
    """Limits with these spreads, and 0 for the others."""
    return Limits(tuple(Limit(kind, value, spreads.get(kind, 0.0)) for kind, value in RATES.items()))


def test_a_prediction_is_as_uncertain_as_its_limits_by_their_share_of_the_time():
    first, step, _ = flops.static(POINT)
    found = prediction.predict(SHAPE, POINT, "static", spread({"operation": 0.4, "lm_head": 1.0}), OPERATIONS)
    head_s = 2.0 * 3 * 8 * 100 / 2e6
    assert found.uncertainty == pytest.approx((0.2 * 10e-3 + 0.5 * head_s) / (10e-3 + expected_s(step)))
    assert found.prefill.uncertainty == pytest.approx((0.2 * 20e-3 + 0.5 * head_s) / (20e-3 + expected_s(first)))
    assert predict().uncertainty == 0


def test_limits_that_are_all_wrong_by_a_factor_leave_a_time_between_its_bounds():
    spreads = dict.fromkeys(RATES, 0.5)
    found = prediction.predict(SHAPE, POINT, "static", spread(spreads), OPERATIONS)
    assert found.uncertainty == pytest.approx(0.25)
    slower = predict(**{kind: value * 1.25 if kind == "operation" else value / 1.25 for kind, value in RATES.items()})
    assert slower.tpot_s == pytest.approx(found.tpot_s * (1 + found.uncertainty))


def test_on_a_gpu_only_the_slower_side_is_uncertain():
    gpu, limits = replace(POINT, device="cuda"), spread({"operation": 0.4})
    slow_host = prediction.predict(SHAPE, gpu, "static", limits, Operations(prefill=2e6, step=1e6))
    slow_device = prediction.predict(SHAPE, gpu, "static", limits, Operations(prefill=0, step=0))
    assert (slow_host.uncertainty, slow_device.uncertainty) == (pytest.approx(0.2), 0)


def without(*kinds):
    return Limits(
        tuple(each for each in limits().found if each.kind not in kinds), tuple(Unresolved(k, "noise") for k in kinds)
    )


def test_a_kind_that_was_not_resolved_counts_at_the_rate_of_another_and_is_uncertain():
    found = prediction.predict(SHAPE, POINT, "static", without("argmax"), OPERATIONS)
    logits = flops.cost(SHAPE, "float32", flops.static(POINT)[1]).logits_bytes
    assert found.tpot_s == pytest.approx(predict(argmax=5e6).tpot_s)
    assert found.uncertainty == pytest.approx(3 * logits / 5e6 / found.tpot_s)
    assert found.notes == ["argmax counts at the rate of copy: noise"]


def test_a_kind_that_is_not_used_is_not_missed():
    assert prediction.predict(SHAPE, POINT, "static", without("copy"), OPERATIONS) == predict()
    assert prediction.predict(SHAPE, POINT, "cat", without("copy"), OPERATIONS).notes


def test_nothing_is_predicted_from_nothing():
    for lost in (("operation",), ("matmul", "lm_head", "attention"), ("read", "copy", "elementwise", "argmax")):
        with pytest.raises(KeyError):
            prediction.predict(SHAPE, POINT, "static", without(*lost), OPERATIONS)
