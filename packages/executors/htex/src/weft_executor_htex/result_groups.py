"""Takes messages of results apart."""

from __future__ import annotations

from collections.abc import Container, Sequence

from .messages import Frame, ResultGroup, Results

__all__ = ["only"]


def only(results: Results, payloads: Sequence[Frame], ids: Container[int]) -> tuple[Results, list[Frame]]:
    """The first results of these calls, each in a group of its own."""
    groups: list[ResultGroup] = []
    pieces: list[Frame] = []
    taken: set[int] = set()
    position = 0
    for group in results.groups:
        payload = payloads[position]
        frames = payloads[position + 1 : position + 1 + len(group.blobs)]
        position += 1 + len(group.blobs)
        start = 0
        for call_id, kind, size in zip(group.ids, group.kinds, group.sizes, strict=True):
            if call_id in ids and call_id not in taken:
                taken.add(call_id)
                groups.append(ResultGroup([call_id], [kind], [size], group.blobs))
                pieces += [payload[start : start + size], *frames]
            start += size
    return Results(groups), pieces
