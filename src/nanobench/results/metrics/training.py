"""Columns of cells that train; null in those that generate."""

from nanobench.results.metrics import training_formulas as formulas
from nanobench.results.metrics.metric import Metric

METRICS = (
    Metric(
        "train_tok_s",
        "tok/s",
        "training",
        "higher",
        "tokens of a step over all ranks, padding included, per second",
        formulas.per_second("tokens"),
    ),
    Metric(
        "train_tok_s_lo",
        "tok/s",
        "training low",
        "",
        "lower bound, 95 % t interval over the launches' log rates",
        formulas.per_second("tokens", "low"),
    ),
    Metric("train_tok_s_hi", "tok/s", "training high", "", "upper bound", formulas.per_second("tokens", "high")),
    Metric(
        "useful_tok_s", "tok/s", "useful", "higher", "the same of tokens that carry loss", formulas.per_second("useful_tokens")
    ),
    Metric("useful_tok_s_lo", "tok/s", "useful low", "", "lower bound", formulas.per_second("useful_tokens", "low")),
    Metric("useful_tok_s_hi", "tok/s", "useful high", "", "upper bound", formulas.per_second("useful_tokens", "high")),
    Metric("padding_fraction", "ratio", "padding", "lower", "tokens without loss / all tokens", formulas.padding_fraction),
    Metric(
        "step_s",
        "s",
        "step",
        "lower",
        "forward, backward, clip and optimizer of all accumulated batches; mean over plain repetitions",
        formulas.step_s("value"),
    ),
    Metric(
        "step_lo_s", "s", "step low", "", "lower bound, 95 % t interval over the launches' log times", formulas.step_s("low")
    ),
    Metric("step_hi_s", "s", "step high", "", "upper bound", formulas.step_s("high")),
    Metric(
        "loss_first",
        "loss",
        "first loss",
        "",
        "of the first step; median over launches",
        formulas.loss("first_call", last=False),
    ),
    Metric(
        "loss_last", "loss", "last loss", "", "of the last timed step; median over launches", formulas.loss("steady", last=True)
    ),
    Metric(
        "executed_flops_per_s",
        "FLOP/s",
        "executed",
        "higher",
        "executed FLOPs of all ranks per second, padding and recomputation included",
        formulas.executed_flops_per_s,
    ),
    Metric(
        "useful_flops_per_s",
        "FLOP/s",
        "useful work",
        "higher",
        "the least FLOPs for tokens with loss, 6 * matmul parameters each + 12 * layers * width * positions seen, per second",
        formulas.useful_flops_per_s,
    ),
    Metric("gradient_bytes", "B", "gradients", "", "bytes of all gradients", lambda c: c.most("gradient_bytes")),
    Metric("optimizer_bytes", "B", "optimizer", "", "bytes of the optimizer's state", lambda c: c.most("optimizer_bytes")),
    Metric(
        "activation_bytes",
        "B",
        "activations",
        "lower",
        "allocator's peak in one batch's forward pass",
        lambda c: c.most("activation_bytes"),
    ),
    Metric(
        "breakeven_steps",
        "count",
        "break-even steps",
        "lower",
        "steps until the cold compile time is paid back",
        formulas.breakeven_steps,
    ),
    Metric(
        "scaling_efficiency",
        "ratio",
        "scaling",
        "higher",
        "train_tok_s / (world_size * train_tok_s of one rank)",
        formulas.scaling("value"),
    ),
    Metric(
        "scaling_efficiency_lo",
        "ratio",
        "scaling low",
        "",
        "lower bound, 95 % t interval over launches",
        formulas.scaling("low"),
    ),
    Metric("scaling_efficiency_hi", "ratio", "scaling high", "", "upper bound", formulas.scaling("high")),
)
