"""Cheats of arms that are honest themselves and slow down the others, or that let others work: `--engine zoo_beside:alarm`."""

import gc
import signal
import subprocess
import sys

import torch
from torch.overrides import TorchFunctionMode

from nanobench.engines.cached import Cached
from zoo import HONEST_CALLS, engine


class Between(Cached):
    """Switches something on after its own calls and off before them."""

    calls = 0

    def prefill(self, prompt_BT):
        self.off()
        self.calls += 1
        super().prefill(prompt_BT)

    def step(self):
        new = super().step()
        if self.length >= self.max_len - 1 and self.calls > HONEST_CALLS:
            self.on()
        return new

    def on(self):
        raise NotImplementedError

    def off(self):
        raise NotImplementedError


class Alarm(Between):
    """An interval timer interrupts the others."""

    def on(self):
        signal.signal(signal.SIGALRM, lambda number, frame: sum(range(1000)))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def off(self):
        signal.setitimer(signal.ITIMER_REAL, 0)


class Profile(Between):
    """The interpreter calls a function at every call of the others."""

    def on(self):
        sys.setprofile(lambda *_: None)

    def off(self):
        sys.setprofile(None)


class Slow(TorchFunctionMode):
    """Does nothing at every function of torch, slowly."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Mode(Between):
    """Every function of torch that the others call goes through a mode."""

    mode = None

    def on(self):
        if self.mode is None:
            self.mode = Slow()
            self.mode.__enter__()

    def off(self):
        if self.mode is not None and torch._C._len_torch_function_stack():
            self.mode.__exit__(None, None, None)
        self.mode = None


class Collect(Between):
    """Garbage is collected all the time while the others run."""

    def on(self):
        gc.set_threshold(1, 1, 1)

    def off(self):
        gc.set_threshold(700, 10, 10)


class Detached(Cached):
    """A process that belongs to no one works beside it."""

    calls = 0

    def prefill(self, prompt_BT):
        self.calls += 1
        if self.calls == HONEST_CALLS + 1:
            spin = "import time\nend = time.time() + 3\nwhile time.time() < end: pass"
            subprocess.run(["sh", "-c", '"$0" -c "$1" &', sys.executable, spin], check=True, stdout=subprocess.DEVNULL)
        super().prefill(prompt_BT)


class LateLogits(Cached):
    """Shows true logits at the last token alone: what stands for an arm that catches up in the last step."""

    calls = 0

    def prefill(self, prompt_BT):
        self.calls += 1
        super().prefill(prompt_BT)

    def step(self):
        new = super().step()
        if self.calls > HONEST_CALLS and self.length < self.max_len - 1:
            self.logits_BV = torch.zeros_like(self.logits_BV)
        return new


class Freezing(torch.optim.AdamW):
    """After the gate no parameter but the last gets a gradient, so that the backward pass ends early."""

    def step(self, closure=None):
        parameters = self.param_groups[0]["params"]
        last = parameters[-1]
        if last in self.state and self.state[last]["step"] >= 3:
            for parameter in parameters[:-1]:
                parameter.requires_grad_(False)
            with torch.no_grad():
                last.add_(1e-5)
            return
        super().step(closure)


def freezing(parameters, *, fused):
    return Freezing(parameters, lr=1e-3, fused=fused)


alarm, profile, mode, collect = map(engine, (Alarm, Profile, Mode, Collect))
detached, late_logits = map(engine, (Detached, LateLogits))
