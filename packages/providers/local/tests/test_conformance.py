from __future__ import annotations

from weft_interfaces import Provider
from weft_interfaces.testing import ProviderSuite, left_out
from weft_provider_local import LocalProvider


@left_out("test_a_query_that_fails_is_not_an_end")  # there is nothing to ask that could fail
class TestLocalProvider(ProviderSuite):
    def make_provider(self) -> Provider:
        return LocalProvider()
