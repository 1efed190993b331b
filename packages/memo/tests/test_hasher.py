from __future__ import annotations

from weft_interfaces.testing import MemoHasherSuite
from weft_memo import Hasher


class TestHasher(MemoHasherSuite):
    def make_hasher(self) -> Hasher:
        return Hasher()
