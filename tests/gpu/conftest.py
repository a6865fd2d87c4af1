"""Tests that need a CUDA GPU. Without one every test here is skipped, and the skip says so in pytest's summary."""

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="NO CUDA GPU HERE: nothing in tests/gpu was run"))
