"""Contract checks for the test suite of a plug-in: one function per family, and an assertion.

from nanobench.testing import assert_contract, check_model

def test_contract():
    assert_contract(check_model(build))
"""

from nanobench.testing.check import Check, assert_contract
from nanobench.testing.engine import check_engine
from nanobench.testing.model import check_model
from nanobench.testing.optimizer import check_optimizer
from nanobench.testing.sampler import check_sampler

__all__ = ["Check", "assert_contract", "check_engine", "check_model", "check_optimizer", "check_sampler"]
