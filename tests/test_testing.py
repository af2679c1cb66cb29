"""nanobench.testing: every built-in member keeps its contract, and each check finds the member that breaks it."""

import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fakes
from nanobench import registry
from nanobench.engines.cached import Cached
from nanobench.engines.cached_cat import CachedCat
from nanobench.engines.uncached import Uncached
from nanobench.errors import Skip
from nanobench.models import gpt2
from nanobench.models._gpt import GPTAdapter
from nanobench.models._kv_cache import CatCache, StaticCache
from nanobench.testing import Check, assert_contract, check_engine, check_model, check_optimizer, check_sampler
from nanobench.testing.check import Checks
from nanobench.testing.members import CHECKS, check_member

NANOS = [name for name in registry.presets() if name.endswith("-nano")]
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 61, "block_size": 24}


@pytest.fixture(autouse=True)
def one_thread():
    """Models as small as these gain nothing from a second thread, and wait for it where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def failed(checks):
    """The names of the checks that failed."""
    return {each.name for each in checks if not each.passed}


def notes(checks):
    return {each.name: each.note for each in checks}


# Built-in members

UNCHECKED = {"speculative": {"sampler", "host reads"}}
"""It uses a sampler's probabilities, and has to know on the host how many tokens were accepted."""


@pytest.mark.parametrize("name", NANOS)
def test_our_models_keep_the_contract(name):
    checks = check_model(registry.find("models", name))
    assert_contract(checks)
    assert not [each for each in checks if each.note.startswith("not checked")]


@pytest.mark.parametrize("name", [name for name in registry.names("engines") if name != "cuda-graph"])
def test_our_engines_keep_the_contract(name):
    checks = check_engine(registry.find("engines", name))
    assert_contract(checks)
    assert {each.name for each in checks if each.note.startswith("not checked")} == UNCHECKED.get(name, set())


def test_an_engine_that_a_device_cannot_run_is_not_checked():
    checks = check_engine(registry.find("engines", "cuda-graph"))
    assert [each.name for each in checks] == ["model", "parts"]
    assert checks[-1] == Check("parts", True, "not checked: cuda-graph needs a CUDA device, not cpu")


@pytest.mark.parametrize("name", [name for name in registry.names("samplers") if name != "top-p-flashinfer"])
def test_our_samplers_keep_the_contract(name):
    checks = check_sampler(registry.find("samplers", name))
    assert_contract(checks)
    assert {name for name, note in notes(checks).items() if note.startswith("not checked")} == (
        {"probabilities", "frequencies"} if name == "greedy" else set()
    )


@pytest.mark.parametrize("name", registry.names("optimizers"))
def test_our_optimizers_keep_the_contract(name):
    assert_contract(check_optimizer(registry.find("optimizers", name)))


def test_a_check_leaves_torchs_generator_as_it_was():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    check_optimizer(registry.find("optimizers", "sgd"))
    assert torch.equal(torch.rand(3), expected)


# Models


class Model(GPTAdapter):
    """A GPT-2; the others here break one part of its contract."""

    def __init__(self, **sizes):
        inner = gpt2.build(**TINY)
        super().__init__(inner.module, replace(inner.shape, **sizes))


class Shapeless(Model):
    def __init__(self):
        super().__init__(n_head="two")


class Miscounted(Model):
    def __init__(self):
        super().__init__(n_params=1_000_000)


class Cheap(Model):
    def __init__(self):
        super().__init__(matmul_params=12_000)


class Long(Model):
    def __init__(self):
        super().__init__(block_size=48)


class Narrow(Model):
    """One token too few in its logits."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        found = super().forward(idx_BT, targets_BT, last_only)
        return found if targets_BT is not None else found[..., :-1]


class Constant(Model):
    def forward(self, idx_BT, targets_BT=None, last_only=False):
        return 0.0 * super().forward(idx_BT, targets_BT, last_only)


class NotFinite(Model):
    def forward(self, idx_BT, targets_BT=None, last_only=False):
        return super().forward(idx_BT, targets_BT, last_only) / 0.0


class Flat(Model):
    """Takes only tokens that are contiguous."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        return super().forward(idx_BT.view(-1).view_as(idx_BT), targets_BT, last_only)


class First(Model):
    """The first position instead of the last."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        found = super().forward(idx_BT, targets_BT)
        return found[:, :1] if last_only else found


class Seeing(Model):
    """Every position sees all others."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        if targets_BT is not None:
            return super().forward(idx_BT, targets_BT)
        logits_BTV = super().forward(idx_BT)
        logits_BTV = logits_BTV + 0.1 * logits_BTV.mean(1, keepdim=True)
        return logits_BTV[:, -1:] if last_only else logits_BTV


class Mixing(Model):
    """Rows depend on the first."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        found = super().forward(idx_BT, targets_BT, last_only)
        return found if targets_BT is not None else found + 0.5 * found[:1]


class CountsPadding(Model):
    """Its loss counts a target of -1 as token 0."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        return super().forward(idx_BT, None if targets_BT is None else targets_BT.clamp(min=0), last_only)


class Vector(Model):
    """A loss per token."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        logits_BTV = super().forward(idx_BT, last_only=last_only)
        if targets_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-1, reduction="none")


class Detached(Model):
    """A loss without a gradient."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        return super().forward(idx_BT, targets_BT, last_only).detach()


class Skipping(Model):
    """Raises Skip where a model may not."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        raise Skip("not today")


class Single(Model):
    """Refuses float64."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        if next(self.module.parameters()).dtype == torch.float64:
            raise RuntimeError("expected float32")
        return super().forward(idx_BT, targets_BT, last_only)


class Coarse(Model):
    """Wrong in bfloat16."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        found = super().forward(idx_BT, targets_BT, last_only)
        return found.flip(-1) if found.dtype == torch.bfloat16 else found


class Adding(StaticCache):
    """It adds to what a position holds instead of replacing it: right in the first call."""

    def append(self, layer, keys_BKTD, values_BKTD, pos_T):
        self.keys_BKSD[layer].index_add_(2, pos_T, keys_BKTD)
        self.values_BKSD[layer].index_add_(2, pos_T, values_BKTD)
        return self.keys_BKSD[layer], self.values_BKSD[layer]

    @property
    def attend_to(self):
        raise AttributeError("this cache attends to all positions")


class Remembering(Model):
    """Its static cache is not reset by a new prompt."""

    def make_cache(self, batch_size, max_len, kind):
        weights = next(self.module.parameters())
        return Adding(self.shape, batch_size, max_len, weights) if kind == "static" else super().make_cache(batch_size, 0, kind)


class Shared(Model):
    """Its cat cache is one object for all calls."""

    kept = None

    def make_cache(self, batch_size, max_len, kind):
        if kind == "cat":
            self.kept = self.kept or CatCache(self.shape)
            return self.kept
        return super().make_cache(batch_size, max_len, kind)


class Swapped(Model):
    """Each kind of cache is the other."""

    def make_cache(self, batch_size, max_len, kind):
        return super().make_cache(batch_size, max_len, {"static": "cat", "cat": "static"}[kind])


class OffByOne(Model):
    """New tokens get the position before theirs."""

    def forward_cached(self, idx_BT, pos_T, cache, last_only=True):
        return super().forward_cached(idx_BT, pos_T - 1 if len(pos_T) == 1 else pos_T, cache, last_only)


class MixingCached(Model):
    """Rows depend on the first, through a cache only."""

    def forward_cached(self, idx_BT, pos_T, cache, last_only=True):
        logits_BTV, cache = super().forward_cached(idx_BT, pos_T, cache, last_only)
        return logits_BTV + 0.5 * logits_BTV[:1], cache


class Trimmed(Model):
    """Attends to one position too few where an engine says how many are filled."""

    class Cache(StaticCache):
        def attend_to(self, length, masked):
            super().attend_to(length, masked)
            self.dropped = not masked and length > 8

        def append(self, layer, keys_BKTD, values_BKTD, pos_T):
            keys_BKSD, values_BKSD = super().append(layer, keys_BKTD, values_BKTD, pos_T)
            begin = int(getattr(self, "dropped", False))
            return keys_BKSD[:, :, begin:], values_BKSD[:, :, begin:]

    def make_cache(self, batch_size, max_len, kind):
        weights = next(self.module.parameters())
        made = super().make_cache(batch_size, max_len, kind)
        return self.Cache(self.shape, batch_size, max_len, weights) if kind == "static" else made


BROKEN_MODELS = {
    Shapeless: "shape",
    Miscounted: "parameters",
    Cheap: "costs",
    Long: "positions",
    Narrow: "logits",
    Constant: "logits",
    NotFinite: "logits",
    Flat: "logits",
    First: "last position",
    Seeing: "causality",
    Mixing: "rows",
    CountsPadding: "loss",
    Vector: "loss",
    Detached: "loss",
    Skipping: "logits",
    Single: "float64",
    Coarse: "bfloat16",
    Remembering: "static cache: forgets",
    Shared: "cat cache: forgets",
    Swapped: "static cache: growth",
    OffByOne: "static cache: logits",
    MixingCached: "cat cache: logits",
    Trimmed: "gate with cached",
}
ALONE = (Shapeless, Miscounted, Cheap, Long, CountsPadding, Vector, Detached, Coarse, Trimmed)
"""Models that break nothing else."""


@pytest.mark.parametrize("kind", BROKEN_MODELS, ids=lambda kind: kind.__name__)
def test_a_model_that_breaks_a_part_of_its_contract_is_found(kind):
    names = failed(check_model(kind))
    assert BROKEN_MODELS[kind] in names
    if kind in ALONE:
        assert names == {BROKEN_MODELS[kind]}


def test_a_cache_that_does_not_grow_is_no_cat_cache():
    assert "cat cache: growth" in failed(check_model(Swapped))


def test_a_model_without_a_cache_and_without_a_loss_keeps_the_contract_and_the_notes_say_what_was_not_checked():
    class Plain(Model):
        def forward(self, idx_BT, targets_BT=None, last_only=False):
            if targets_BT is not None:
                raise Skip("no loss here")
            return super().forward(idx_BT, None, last_only)

        def make_cache(self, batch_size, max_len, kind):
            raise Skip("no cache here")

    checks = check_model(Plain)
    assert_contract(checks)
    said = notes(checks)
    assert said["loss"] == "not checked: no loss here"
    for name in ("static cache: logits", "cat cache: growth", "gate with cached", "gate with cached-cat"):
        assert said[name] == "not checked: no cache here"
    assert "equal" in said["gate with uncached"]


@pytest.mark.parametrize(
    ("build", "note"),
    [
        (object, "is no Adapter"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (fakes.broken, "no weights here"),
    ],
)
def test_a_build_that_gives_no_model_is_one_check_that_failed(build, note):
    (found,) = check_model(build)
    assert (found.name, found.passed) == ("shape", False)
    assert note in found.note


def test_a_head_that_starts_at_zero_hides_nothing():
    class Zero(OffByOne):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.module.head.weight.zero_()

    assert {"static cache: logits", "cat cache: logits"} <= failed(check_model(Zero))


# Engines


class Keeping(CachedCat):
    """Its prefill continues the last call's cache."""

    def prefill(self, prompt_BT):
        self.length = prompt_BT.shape[1]
        self.tokens_BN[:, : self.length] = prompt_BT
        self._extend(self.run_prefill, 0)


class Growing(Uncached):
    """A new tensor of tokens in each step."""

    def step(self):
        self.tokens_BN = self.tokens_BN.clone()
        return super().step()


class Argmax(Uncached):
    """Chooses the tokens itself."""

    def _next(self, idx_BT):
        logits_BV, _ = super()._next(idx_BT)
        return logits_BV, logits_BV.argmax(-1, keepdim=True)


class Silent(Uncached):
    """Its step says nothing."""

    def step(self):
        super().step()


class Boasting(Uncached):
    """It counts more tokens than it writes."""

    def step(self):
        return 4 * super().step()


class NoPrompt(Uncached):
    """Overwrites the prompt."""

    def step(self):
        done = super().step()
        self.tokens_BN[:, 0] = 0
        return done


class Waiting(Uncached):
    """Looks at a token on the host."""

    def step(self):
        done = super().step()
        self.last = self.tokens_BN[0, 0].item()
        return done


class Misspelt(Uncached):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.kv_access = "uncahced"


class Short(Uncached):
    """32-bit tokens."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.tokens_BN = self.tokens_BN.int()


class WholeLogits(Uncached):
    """Shows the logits of one row."""

    def step(self):
        done = super().step()
        self.logits_BV = self.logits_BV[:1]
        return done


def of(kind):
    """The build() of an engine class."""
    extra = {"last_only": True} if issubclass(kind, Uncached) else {}
    return lambda adapter, sampler, point, compiler: kind(adapter, sampler, point, compiler, **extra)


BROKEN_ENGINES = {
    Keeping: "forgets",
    Growing: "memory",
    Argmax: "sampler",
    Silent: "tokens",
    Boasting: "tokens",
    NoPrompt: "tokens",
    WholeLogits: "tokens",
    Waiting: "host reads",
    Misspelt: "kv_access",
    Short: "parts",
    fakes.Frozen: "gate",
    fakes.FrozenEmbedding: "gate",
    fakes.Leaky: "gate",
    fakes.Broadcast: "gate",
}


@pytest.mark.parametrize("kind", BROKEN_ENGINES, ids=lambda kind: kind.__name__)
def test_an_engine_that_breaks_a_part_of_its_contract_is_found(kind):
    names = failed(check_engine(of(kind)))
    assert BROKEN_ENGINES[kind] in names
    if kind in (Growing, Argmax, Waiting, Misspelt, Short):
        assert names == {BROKEN_ENGINES[kind]}


def test_what_is_no_engine_is_named():
    checks = check_engine(lambda *arguments: object())
    assert notes(checks)["parts"] == "build() returns a object without tokens_BN, logits_BV, prefill, step"


def test_an_engine_without_logits_is_checked_by_its_tokens():
    checks = check_engine(of(fakes.BlackBox))
    assert_contract(checks)
    assert notes(checks)["sampler"] == "not checked: it shows no logits"
    assert notes(checks)["gate"].startswith("black box")


def test_an_engine_is_checked_with_the_model_that_it_is_given():
    class Cacheless(Model):
        def make_cache(self, batch_size, max_len, kind):
            raise Skip("no cache here")

    assert notes(check_engine(of(Cached), Cacheless))["parts"] == "not checked: no cache here"
    (found,) = check_engine(of(Cached), object)
    assert (found.name, found.passed) == ("model", False)


# Samplers


class Random:
    """A right sampler; the others here break one part of its contract."""

    def probabilities(self, logits_BV):
        return torch.softmax(logits_BV, -1)

    def __call__(self, logits_BV, generator):
        probs_BV = self.probabilities(logits_BV.float())
        return (probs_BV / torch.empty_like(probs_BV).exponential_(generator=generator)).argmax(-1, keepdim=True)


class GreedyInDisguise(Random):
    def __call__(self, logits_BV, generator):
        return logits_BV.argmax(-1, keepdim=True)


class Impossible(Random):
    def __call__(self, logits_BV, generator):
        return super().__call__(logits_BV.clamp(min=-3.0), generator)


class InPlace(Random):
    def __call__(self, logits_BV, generator):
        return super().__call__(logits_BV.mul_(1.5).div_(1.5).add_(1.0), generator)


class Ungoverned(Random):
    def __call__(self, logits_BV, generator):
        return super().__call__(logits_BV, None)


class Squeezed(Random):
    def __call__(self, logits_BV, generator):
        return super().__call__(logits_BV, generator).squeeze(1)


class Unnormalized(Random):
    def probabilities(self, logits_BV):
        return 2 * super().probabilities(logits_BV)


class Looking(Random):
    def __call__(self, logits_BV, generator):
        return super().__call__(logits_BV if logits_BV.isfinite().any() else logits_BV + 1, generator)


class Selecting(Random):
    def __call__(self, logits_BV, generator):
        rows = (logits_BV.amax(-1) > 0).nonzero()
        return super().__call__(logits_BV, generator) + 0 * rows.sum().to(torch.long)


class OnTheHost(Random):
    """A constant that stays on the CPU."""

    def __init__(self):
        self.bias_V = torch.zeros(97)

    def __call__(self, logits_BV, generator):
        return super().__call__(logits_BV + (self.bias_V if logits_BV.shape[1] == 97 else 0.0), generator)


class Leaving(Random):
    """Its tokens are copied to the host."""

    def __call__(self, logits_BV, generator):
        return super().__call__(logits_BV, generator).cpu()


BROKEN_SAMPLERS = {
    GreedyInDisguise: "frequencies",
    Impossible: "possible tokens",
    InPlace: "logits",
    Ungoverned: "generator",
    Squeezed: "tokens",
    Unnormalized: "probabilities",
    Looking: "device",
    Selecting: "device",
    OnTheHost: "device",
    Leaving: "device",
}


def test_a_right_sampler_keeps_the_contract():
    checks = check_sampler(Random)
    assert_contract(checks)
    assert notes(checks)["generator"] == "it is random"


@pytest.mark.parametrize("kind", BROKEN_SAMPLERS, ids=lambda kind: kind.__name__)
def test_a_sampler_that_breaks_a_part_of_its_contract_is_found(kind):
    names = failed(check_sampler(kind))
    assert BROKEN_SAMPLERS[kind] in names
    if kind in (GreedyInDisguise, InPlace, Ungoverned, Looking, Selecting, OnTheHost):
        assert names == {BROKEN_SAMPLERS[kind]}


def test_what_is_no_sampler_is_named():
    (found,) = check_sampler(lambda: 3)
    assert (found.passed, found.note) == (False, "build() returns a int, and not a function")


# Optimizers


class Decaying(torch.optim.SGD):
    """Its learning rate depends on a number that is not in its state."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.steps
        return super().step(closure)


def decaying(parameters, *, fused):
    return Decaying(parameters, lr=0.1)


def half(parameters, *, fused):
    return torch.optim.SGD(list(parameters)[::2], lr=0.1)


def still(parameters, *, fused):
    return torch.optim.SGD(parameters, lr=0.0)


def other(parameters, *, fused):
    return torch.optim.SGD(parameters, lr=0.1 if fused else 0.2)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (fakes.lazy, {"fused kernel"}),
        (other, {"fused kernel"}),
        (decaying, {"state", "forgets"}),
        (half, {"parameters"}),
        (lambda parameters, *, fused: object(), {"parameters"}),
        (lambda parameters: torch.optim.SGD(parameters), {"parameters"}),
    ],
)
def test_an_optimizer_that_breaks_a_part_of_its_contract_is_found(build, names):
    assert failed(check_optimizer(build)) == names


def test_an_optimizer_that_changes_no_weight_is_found():
    assert {"fused kernel", "foreach kernel"} <= failed(check_optimizer(still))


# The assertion, and checks by name


def test_the_assertion_names_what_failed_and_what_it_was():
    with pytest.raises(AssertionError, match=r"1 of 2 checks of the contract failed:\n  loss: it is 3$"):
        assert_contract([Check("shape", True), Check("loss", False, "it is 3")])
    assert_contract([Check("shape", True)])
    with pytest.raises(AssertionError, match="there is no check"):
        assert_contract(())


def test_an_exception_with_several_lines_is_a_note_of_one():
    def work():
        raise ValueError("one\ntwo\x1b[31m")

    checks = Checks()
    assert checks.run("x", work) is None
    assert checks.found == [Check("x", False, "it raises ValueError: one two?[31m")]


@pytest.mark.parametrize(("family", "member"), [("samplers", "greedy"), ("engines", "uncached"), ("optimizers", "sgd")])
def test_a_member_is_checked_by_its_name(family, member):
    assert family in CHECKS
    found = check_member(family, member, "cpu", torch.get_num_threads(), None, model="gpt2-nano")
    assert found["checks"]
    assert all(each["passed"] and isinstance(each["note"], str) for each in found["checks"])
