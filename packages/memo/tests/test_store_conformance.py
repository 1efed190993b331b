"""The file store keeps what the contract promises."""

from __future__ import annotations

from pathlib import Path

import pytest
from weft_interfaces import MemoStore
from weft_interfaces.testing import MemoStoreSuite
from weft_memo import FileStore


class TestFileStore(MemoStoreSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "store"

    def make_store(self) -> MemoStore:
        return FileStore(self.folder)

    def reopen(self, store: MemoStore) -> MemoStore:
        return FileStore(self.folder)
