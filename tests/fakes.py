"""Plug-ins that are wrong, slow, or crash on purpose: `--engine fakes:frozen`, with tests/ on PYTHONPATH."""

import gc
import os
import signal
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from nanobench.engines import _black_box
from nanobench.engines.cached import Cached
from nanobench.engines.uncached import Uncached
from nanobench.errors import Skip
from nanobench.models._gpt import GPTAdapter
from nanobench.models.gpt2 import build as build_gpt2
from nanobench.probes.host import HostProbe
from virtual_device import VirtualDevice

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "vocab_size": 64, "block_size": 64}


class Frozen(Cached):
    """A bug of published scripts: after the first decode step the position does not advance."""

    def step(self):
        before = self.pos_1.clone()
        super().step()
        if before > self.prompt_T[-1] + 1:
            self.tokens_BN.index_copy_(1, before, self.tokens_BN.index_select(1, self.pos_1))
            self.pos_1.copy_(before)
        return 1


class FrozenEmbedding(Cached):
    """A graph with a constant position: it writes the cache at the right position and embeds at the wrong one."""

    def _decode(self):
        token_B1 = self.tokens_BN.index_select(1, self.pos_1)
        position = self.prompt_T[-1:] + 1
        logits_B1V, self.cache = self.adapter.forward_cached(token_B1, position, self.cache)
        self.pos_1 += 1
        self.tokens_BN.index_copy_(1, self.pos_1, self.sampler(logits_B1V[:, -1], self.generator))
        return logits_B1V[:, -1]


class Slow(Cached):
    """Correct, but each token costs twenty uncached passes."""

    def step(self):
        for _ in range(20):
            self.adapter.forward(self.tokens_BN)
        return super().step()


class Leaky(Uncached):
    """Rows depend on row 0."""

    def _next(self, idx_BT):
        logits_BV = self.adapter.forward(idx_BT, last_only=True)[:, -1]
        logits_BV = logits_BV + 0.5 * logits_BV[:1]
        return logits_BV, self.sampler(logits_BV, self.generator)


class Broadcast(Uncached):
    """Row 0's token is written to every row."""

    def step(self):
        super().step()
        self.tokens_BN[:, self.length - 1] = self.tokens_BN[0, self.length - 1].clone()
        return 1


class BlackBox(Uncached):
    """Has no logits."""

    def step(self):
        super().step()
        self.logits_BV = None
        return 1


class Rounded(Uncached):
    """Logits off by about as much as rounding in bfloat16 is."""

    def _next(self, idx_BT):
        logits_BV = self.adapter.forward(idx_BT, last_only=True)[:, -1].to(torch.bfloat16).to(torch.float32)
        return logits_BV, self.sampler(logits_BV, self.generator)


class Raising(Uncached):
    """Raises at batch 4 and above (the gate's small shape has three rows)."""

    def prefill(self, prompt_BT):
        if len(prompt_BT) > 3:
            raise ValueError("no rows above three\nand a second line")
        super().prefill(prompt_BT)


class Dying(Uncached):
    """Kills its process at batch 4, after a few calls, like a manual kill."""

    calls = 0

    def prefill(self, prompt_BT):
        super().prefill(prompt_BT)
        Dying.calls += 1
        if len(prompt_BT) == 4 and Dying.calls > 3:
            os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Uncached):
    """Never answers at batch 4 and above."""

    def prefill(self, prompt_BT):
        if len(prompt_BT) > 3:
            time.sleep(3600)
        super().prefill(prompt_BT)


class Greedy(Uncached):
    """Needs a GiB for every row above three."""

    def prefill(self, prompt_BT):
        self.hoard = None
        self.hoard = torch.empty(max(0, len(prompt_BT) - 3) << 28)
        super().prefill(prompt_BT)


class OnVirtualDevice(Uncached):
    """Correct tokens; the time of a step is that of `kernels` kernels of `device_s` seconds, launched on `virtual_device`."""

    kernels, device_s, prefill_s = 1, 2e-3, 10e-3

    def prefill(self, prompt_BT):
        self.length = prompt_BT.shape[1]
        self.tokens_BN[:, : self.length] = prompt_BT
        super().step()
        virtual_device.launch(self.prefill_s)

    def step(self):
        for _ in range(self.kernels):
            virtual_device.launch(self.device_s)
        return super().step()


class Twice(OnVirtualDevice):
    """Half the time per step and per prefill."""

    device_s, prefill_s = 1e-3, 5e-3


class HostBound(OnVirtualDevice):
    """Sixty launches per token, of kernels without duration."""

    kernels, device_s, prefill_s = 60, 0.0, 0.0


class Blinding(Uncached):
    """Makes the files of the host's probe unreadable after some calls, as if /proc were unmounted."""

    calls = 0

    def prefill(self, prompt_BT):
        super().prefill(prompt_BT)
        Blinding.calls += 1
        if Blinding.calls == 3:
            unreadable = os.open(os.devnull, os.O_WRONLY)
            for probe in [thing for thing in gc.get_objects() if type(thing) is HostProbe]:
                for source in (*probe.counters.values(), *probe.gauges.values()):
                    if source.file is not None:
                        os.dup2(unreadable, source.file)


virtual_device = VirtualDevice()


def engine(kind):
    def build(adapter, sampler, point, compiler):
        extra = {"last_only": True} if issubclass(kind, Uncached) else {}
        return kind(adapter, sampler, point, compiler, **extra)

    return build


frozen, frozen_embedding, slow, leaky, broadcast = map(engine, (Frozen, FrozenEmbedding, Slow, Leaky, Broadcast))
on_virtual_device, twice, host_bound, blinding = map(engine, (OnVirtualDevice, Twice, HostBound, Blinding))
black_box, rounded, raising, dying, hanging, greedy = map(engine, (BlackBox, Rounded, Raising, Dying, Hanging, Greedy))


def absent_sampler():
    """A sampler that this machine cannot run."""
    raise Skip("it needs a package that is not installed")


def broken_sampler():
    """A sampler with a mistake in it."""
    raise ValueError("no table of probabilities")


def same(adapter, sampler, point, compiler):
    """The uncached engine under a second name, for A/A."""
    return Uncached(adapter, sampler, point, compiler, last_only=True)


def greedy_loop(module, idx_BT, n):
    """The loop of a script over one of our own networks: prompt and n greedy tokens."""
    for _ in range(n):
        x_BTC = module(idx_BT, torch.arange(idx_BT.shape[1]))
        idx_BT = torch.cat((idx_BT, module.logits(x_BTC[:, -1:])[:, -1].argmax(-1, keepdim=True)), dim=1)
    return idx_BT


whole = _black_box.black_box(greedy_loop)


def tiny():
    return build_gpt2(**TINY)


def no_adapter():
    return object()


def shapeless():
    inner = tiny()
    return GPTAdapter(inner.module, replace(inner.shape, n_head="two"))


def broken():
    raise RuntimeError("no weights here")


class Miscounting(GPTAdapter):
    """Its loss counts padding as token 0."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        logits_BTV = super().forward(idx_BT, last_only=last_only)
        if targets_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.clamp(min=0).flatten())


class Copying(GPTAdapter):
    """In training, every row is a copy of the first."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        if targets_BT is not None:
            idx_BT, targets_BT = idx_BT[:1].expand_as(idx_BT), targets_BT[:1].expand_as(targets_BT)
        return super().forward(idx_BT, targets_BT, last_only)


class Failing(GPTAdapter):
    """Raises an exception in training."""

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        if targets_BT is not None:
            raise ValueError("no loss here")
        return super().forward(idx_BT, targets_BT, last_only)


class SecondRank(GPTAdapter):
    """In distributed training, rank 1 applies `odd` to its loss; a single process is normal."""

    odd = staticmethod(lambda loss: loss)
    steps = 0

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        found = super().forward(idx_BT, targets_BT, last_only)
        if targets_BT is None or os.environ.get("RANK") != "1":
            return found
        SecondRank.steps += 1
        return type(self).odd(found)


class Lopsided(SecondRank):
    """Its gradients are twice as long."""

    odd = staticmethod(lambda loss: 2 * loss)


class DyingRank(SecondRank):
    """It is killed after the gate, like a manual kill."""

    odd = staticmethod(lambda loss: os.kill(os.getpid(), signal.SIGKILL) if SecondRank.steps > 6 else loss)


class HangingRank(SecondRank):
    """It never comes back."""

    odd = staticmethod(lambda loss: time.sleep(3600))


class HoardingRank(SecondRank):
    """It needs 64 GiB."""

    odd = staticmethod(lambda loss: loss + torch.empty(1 << 34).sum())


def model(kind):
    def build():
        inner = build_gpt2(**TINY)
        return kind(inner.module, inner.shape)

    return build


miscounting, copying, failing = map(model, (Miscounting, Copying, Failing))
lopsided, dying_rank, hanging_rank = map(model, (Lopsided, DyingRank, HangingRank))
hoarding_rank = model(HoardingRank)


def lazy(parameters, *, fused):
    """An optimizer whose fused kernel does nothing."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    if fused:
        optimizer.step = lambda *_, **__: None
    return optimizer
