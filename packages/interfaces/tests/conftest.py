"""How a suite is tried against an implementation that breaks a promise."""

from __future__ import annotations

import pytest


@pytest.fixture
def suite_fails():
    """Run one test of a suite, which must fail, and say why."""

    def run(suite, test, *allowed, timeout=0.5, **methods):
        own = {name: (lambda self, *args, make=make: make(*args)) for name, make in methods.items()}
        broken = type("Broken", (suite,), {**own, "timeout": timeout})()
        with pytest.raises((AssertionError, *allowed)) as caught:
            getattr(broken, test)()
        assert str(caught.value).strip(), "a failing suite says which promise was broken"

    return run
