"""Resolvers, policies, serializers and sinks that break a promise fail in that promise's test."""

from __future__ import annotations

import itertools
import json
import pickle
import threading
from concurrent.futures import Future

import pytest
from weft_interfaces import (
    FunctionPayload,
    PickleSerializer,
    RetryDecision,
    ScalingDecision,
    SerializationError,
)
from weft_interfaces.memory import ContainerResolver, RecordingEventSink, RetryTimes, SimpleScaling
from weft_interfaces.testing import (
    DependencyResolverSuite,
    EventSinkSuite,
    RetryPolicySuite,
    ScalingPolicySuite,
    SerializerSuite,
)

pytestmark = pytest.mark.once  # it is the suites that are tested


class Shallow(ContainerResolver):
    def futures(self, value):
        return [value] if isinstance(value, Future) else []

    def resolve(self, value, result):
        return result(value) if isinstance(value, Future) else value


class FindsTwice(ContainerResolver):
    def futures(self, value):
        found = super().futures(value)
        return found + found[:1] if isinstance(value, list) else found


class ChangesValues(ContainerResolver):
    def resolve(self, value, result):
        if isinstance(value, list):
            value[:] = [self.resolve(part, result) for part in value]
            return value
        return super().resolve(value, result)


class MakesListsOfSets(ContainerResolver):
    def resolve(self, value, result):
        resolved = super().resolve(value, result)
        return list(resolved) if isinstance(resolved, (set, frozenset)) else resolved


class KeepsTheFuture(ContainerResolver):
    def resolve(self, value, result):
        return value


class CopiesWhatHasNone(ContainerResolver):
    def resolve(self, value, result):
        return super().resolve(value, result) if self.futures(value) else repr(value)


class OneResultForAll(ContainerResolver):
    def resolve(self, value, result):
        first = self.futures(value)[:1]
        return super().resolve(value, lambda future: result(first[0]))


class Quadratic(ContainerResolver):
    def futures(self, value):
        found = []
        for future in super().futures(value):
            if not any(future is other for other in found):
                found.append(future)
        return found


class NotForThreads(ContainerResolver):
    def futures(self, value):
        self.found = super().futures(value)
        threading.Event().wait(0.0005)
        found, self.found = self.found, []
        return found


RESOLVERS = [
    (Shallow, "test_futures_are_found_at_any_depth"),
    (Shallow, "test_a_future_in_a_set_is_found"),
    (Shallow, "test_a_deep_value_is_no_problem"),
    (FindsTwice, "test_each_future_is_found_once"),
    (ChangesValues, "test_the_value_is_not_changed"),
    (MakesListsOfSets, "test_a_future_in_a_set_is_found"),
    (KeepsTheFuture, "test_a_future_is_found_and_replaced"),
    (CopiesWhatHasNone, "test_a_value_without_futures_is_itself"),
    (OneResultForAll, "test_equal_values_are_not_mixed_up"),
    (Quadratic, "test_it_is_linear"),
    (NotForThreads, "test_threads_may_use_it_at_once"),
]


@pytest.mark.parametrize(("resolver", "test"), RESOLVERS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_resolver_fails(suite_fails, resolver, test):
    suite_fails(DependencyResolverSuite, test, AttributeError, timeout=10.0, make_resolver=resolver)


# -- retries ------------------------------------------------------------------------------------------------


class Always:
    def decide(self, failure):
        return RetryDecision(True, reason="hope")


class BackInTime:
    def decide(self, failure):
        return RetryDecision(False, -1.0, "at once and sooner")


class Speechless:
    def decide(self, failure):
        return RetryDecision(False)


class SaysYes:
    def decide(self, failure):
        return True


class CountsForItself(RetryTimes):
    count = 0

    def decide(self, failure):
        self.count = failure.failures
        threading.Event().wait(0.0001)
        if self.count != failure.failures:
            raise RuntimeError("somebody else is here")
        return super().decide(failure)


RETRIES = [
    (Always, "test_a_task_that_always_fails_is_given_up"),
    (Always, "test_a_task_that_always_kills_its_worker_is_given_up"),
    (Always, "test_wrong_input_is_never_tried_again"),
    (BackInTime, "test_every_error_gets_a_decision_in_words"),
    (Speechless, "test_every_error_gets_a_decision_in_words"),
    (SaysYes, "test_every_error_gets_a_decision_in_words"),
    (CountsForItself, "test_threads_may_ask_at_once"),
]


@pytest.mark.parametrize(("policy", "test"), RETRIES, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_retry_policy_fails(suite_fails, policy, test):
    suite_fails(RetryPolicySuite, test, timeout=10.0, make_policy=policy)


# -- scaling ------------------------------------------------------------------------------------------------


class ForgetsWhatItAskedFor(SimpleScaling):
    def decide(self, state):
        up = {block_id: block for block_id, block in state.blocks.items() if block.managers}
        return super().decide(state._replace(blocks=up))


class TakesUnknownForAnEnd(SimpleScaling):
    def decide(self, state):
        known = {i: block for i, block in state.blocks.items() if block.status.state.value != "unknown"}
        return super().decide(state._replace(blocks=known))


class ExceedsMax:
    def decide(self, state):
        return ScalingDecision(state.demand.queued, reason="many calls wait")


class KeepsNoMin:
    def decide(self, state):
        return ScalingDecision(drain=tuple(state.blocks), reason="nothing waits")


class NeverAsks:
    def decide(self, state):
        return ScalingDecision()


class AsksForNothing:
    def decide(self, state):
        return ScalingDecision(min(1, state.settings.max - len(state.blocks)), reason="just in case")


class DrainsDraining:
    def decide(self, state):
        return ScalingDecision(
            drain=tuple(i for i, block in state.blocks.items() if block.draining), reason="again"
        )


class CountsDraining(SimpleScaling):
    def decide(self, state):
        busy = {i: block._replace(draining=False) for i, block in state.blocks.items()}
        return super().decide(state._replace(blocks=busy))


class ChangesItsMind(SimpleScaling):
    calls = itertools.count()

    def decide(self, state):
        return super().decide(state)._replace(reason=f"decision {next(self.calls)}")


class SaysNoReason(SimpleScaling):
    def decide(self, state):
        return super().decide(state)._replace(reason="")


SCALINGS = [
    (ForgetsWhatItAskedFor, "test_what_was_asked_for_counts"),
    (TakesUnknownForAnEnd, "test_an_unknown_state_is_no_end"),
    (ExceedsMax, "test_no_more_than_max"),
    (KeepsNoMin, "test_no_fewer_than_min"),
    (KeepsNoMin, "test_busy_blocks_are_kept"),
    (KeepsNoMin, "test_blocks_that_calls_need_are_kept"),
    (NeverAsks, "test_blocks_are_asked_for_when_calls_wait"),
    (NeverAsks, "test_idle_blocks_are_given_back_in_time"),
    (AsksForNothing, "test_nothing_is_asked_for_when_nothing_waits"),
    (DrainsDraining, "test_draining_blocks_are_no_help_but_count_for_max"),
    (CountsDraining, "test_draining_blocks_are_no_help_but_count_for_max"),
    (ChangesItsMind, "test_it_is_a_pure_function"),
    (SaysNoReason, "test_blocks_are_asked_for_when_calls_wait"),
]


@pytest.mark.parametrize(("policy", "test"), SCALINGS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_scaling_policy_fails(suite_fails, policy, test):
    suite_fails(ScalingPolicySuite, test, make_policy=policy)


# -- serializers --------------------------------------------------------------------------------------------


class RaisesBare:
    def dumps(self, value, what, buffer_callback=None):
        return pickle.dumps(value, 5, buffer_callback=buffer_callback)

    def loads(self, data, what, buffers=()):
        return pickle.loads(data, buffers=buffers)

    def dumps_function(self, function):
        data = pickle.dumps(function)
        return FunctionPayload(data, data)


class KnowsNoPath(PickleSerializer):
    def dumps(self, value, what, buffer_callback=None):
        try:
            return super().dumps(value, what, buffer_callback)
        except SerializationError as error:
            raise SerializationError(str(error), what) from error


class NamesNothing(PickleSerializer):
    def loads(self, data, what, buffers=()):
        try:
            return super().loads(data, what, buffers)
        except SerializationError as error:
            raise SerializationError("cannot be loaded") from error


class Json(PickleSerializer):
    def dumps(self, value, what, buffer_callback=None):
        return super().dumps(json.loads(json.dumps(value, default=str, skipkeys=True)), what)


class SendsBuffersTwice(PickleSerializer):
    def dumps(self, value, what, buffer_callback=None):
        if buffer_callback:
            super().dumps(value, what, buffer_callback)
        return super().dumps(value, what)


class NewDigestEachTime(PickleSerializer):
    count = itertools.count()

    def dumps_function(self, function):
        return super().dumps_function(function)._replace(digest=str(next(self.count)).encode())


class OneDigestForAll(PickleSerializer):
    def dumps_function(self, function):
        return super().dumps_function(function)._replace(digest=b"f")


class NotForThreadsAtAll(PickleSerializer):
    def dumps(self, value, what, buffer_callback=None):
        self.value = value
        threading.Event().wait(0.0002)
        return super().dumps(self.value, what, buffer_callback)


SERIALIZERS = [
    (RaisesBare, "test_what_cannot_be_dumped_is_named"),
    (RaisesBare, "test_what_cannot_be_loaded_is_named"),
    (RaisesBare, "test_a_function_that_cannot_be_dumped_is_named"),
    (KnowsNoPath, "test_what_cannot_be_dumped_is_named"),
    (NamesNothing, "test_what_cannot_be_loaded_is_named"),
    (Json, "test_values_come_back"),
    (SendsBuffersTwice, "test_buffers_travel_apart"),
    (NewDigestEachTime, "test_equal_digests_mean_the_same_function"),
    (OneDigestForAll, "test_equal_digests_mean_the_same_function"),
    (NotForThreadsAtAll, "test_threads_may_use_it_at_once"),
]


@pytest.mark.parametrize(
    ("serializer", "test"), SERIALIZERS, ids=lambda part: getattr(part, "__name__", part)
)
def test_a_broken_serializer_fails(suite_fails, serializer, test):
    suite_fails(SerializerSuite, test, timeout=10.0, make_serializer=serializer)


# -- event sinks --------------------------------------------------------------------------------------------


class LosesTheLast(RecordingEventSink):
    def close(self):
        self.events = self.events[: len(self.events) // 100 * 100 - 1]


class RaisesForOdd(RecordingEventSink):
    def write(self, events):
        for event in events:
            json.dumps(dict(event.data))
        super().write(events)


class RaisesOnceClosed(RecordingEventSink):
    def write(self, events):
        if self.closed:
            raise ValueError("I/O operation on closed file")
        super().write(events)


class KeepsTheBatch(RecordingEventSink):
    def __init__(self):
        super().__init__()
        self.batches = []

    def write(self, events):
        self.batches.append(events)

    def close(self):
        self.events = [event for batch in self.batches for event in batch]


class TakesTheBatch(RecordingEventSink):
    def write(self, events):
        while events:
            super().write([events.pop(0)])


class NewestFirst(RecordingEventSink):
    def write(self, events):
        self.events[:0] = events


class WritesTwiceOnClose(RecordingEventSink):
    def close(self):
        self.events += self.events[-1:]


SINKS = [
    (LosesTheLast, "test_events_are_kept_in_order"),
    (NewestFirst, "test_events_are_kept_in_order"),
    (NewestFirst, "test_threads_may_write_at_once"),
    (RaisesForOdd, "test_write_never_raises"),
    (RaisesOnceClosed, "test_write_never_raises"),
    (KeepsTheBatch, "test_the_batch_may_be_used_again"),
    (TakesTheBatch, "test_events_are_not_changed"),
    (WritesTwiceOnClose, "test_close_may_come_twice"),
    (LosesTheLast, "test_an_empty_batch_does_no_harm"),
]


@pytest.mark.parametrize(("sink", "test"), SINKS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_sink_fails(suite_fails, sink, test):
    suite_fails(EventSinkSuite, test, timeout=10.0, make_sink=sink, written=lambda sink: sink.events)
