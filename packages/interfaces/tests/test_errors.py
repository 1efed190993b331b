"""Every error survives the way from a worker to its caller."""

from __future__ import annotations

import pickle

import pytest
import weft_interfaces
from weft_interfaces import (
    ConfigError,
    DeathCertificate,
    DependencyError,
    LostError,
    RemoteError,
    SerializationError,
    ShellError,
    TaskTimeoutError,
    WeftError,
    WorkerLostError,
)

CERTIFICATE = DeathCertificate(
    kind="worker", host="node7", pid=12, signal=9, reason="OOM", stderr_tail="last words"
)
ARGUMENTS = {
    ConfigError: ("not a number", "executors[1].workers"),
    SerializationError: ("cannot be pickled", "argument 'x'[3].lock"),
    TaskTimeoutError: ("took too long", 1.5),
    ShellError: ("bwa mem", 3, "no such index\n", "/tmp/err"),
    RemoteError: ("Alien", "take me to your leader", "Traceback ..."),
    DependencyError: ("a dependency failed", ("c", "b", "a")),
}


def subclasses(cls):
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("weft_interfaces."):
            yield sub
            yield from subclasses(sub)


def make(cls):
    if issubclass(cls, LostError):
        return cls("it is gone", [CERTIFICATE, CERTIFICATE])
    return cls(*ARGUMENTS.get(cls, ("what went wrong",)))


ERRORS = sorted({WeftError, *subclasses(WeftError)}, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", ERRORS)
@pytest.mark.parametrize("protocol", [2, 5])
def test_an_error_survives_pickle(cls, protocol):
    error = make(cls)
    error.__cause__ = KeyError("the cause")
    error.__dict__["__notes__"] = ["a note"]
    error.extra = {"attribute": 1}
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is cls
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
    assert repr(copy.__cause__) == "KeyError('the cause')"
    assert pickle.loads(pickle.dumps(copy, protocol)).args == error.args


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_is_public_and_named_as_one(cls):
    assert cls.__name__.endswith("Error")
    assert getattr(weft_interfaces, cls.__name__) is cls
    assert cls.__doc__


def test_there_are_as_many_errors_as_the_package_says():
    public = {name for name in weft_interfaces.__all__ if name.endswith("Error")}
    assert public == {cls.__name__ for cls in ERRORS}


def test_a_cause_that_cannot_be_pickled_is_told_in_words():
    error = WeftError("outer")
    error.__cause__ = ValueError(open)
    error.__cause__.lock = lambda: None
    cause = pickle.loads(pickle.dumps(error)).__cause__
    assert isinstance(cause, RemoteError)
    assert cause.type_name == "ValueError"


def test_a_chain_of_causes_survives():
    inner, middle, outer = WorkerLostError("inner", [CERTIFICATE]), WeftError("middle"), WeftError("outer")
    middle.__cause__, outer.__cause__ = inner, middle
    copy = pickle.loads(pickle.dumps(outer))
    assert copy.__cause__.__cause__.certificate == CERTIFICATE


def test_errors_are_also_what_python_calls_them():
    kinds = {
        "CallError": TypeError,
        "UnitError": ValueError,
        "FutureMisuseError": TypeError,
        "TaskTimeoutError": TimeoutError,
        "RunClosedError": RuntimeError,
        "MissingPluginError": ImportError,
    }
    for name, kind in kinds.items():
        assert issubclass(getattr(weft_interfaces, name), kind)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"signal": 9}, "signal 9 (SIGKILL)"),
        ({"signal": 250}, "signal 250"),
        ({"exit_code": 3}, "exited with code 3"),
        ({"out_of_memory": True, "signal": 9}, "memory ran out"),
        ({}, "how it ended is not known"),
        (
            {"host": "node7", "pid": 12, "block_id": "b1", "job_id": "77"},
            "process 12, host node7, block b1, job 77",
        ),
        ({"reason": "NODE_FAIL"}, "reason given: NODE_FAIL"),
        ({"stderr_tail": "boom\n"}, "the end of its stderr:\nboom"),
    ],
)
def test_a_certificate_tells_what_is_known(fields, words):
    certificate = DeathCertificate(kind="worker", **fields)
    assert words in str(certificate)
    assert words in str(WorkerLostError("lost", [certificate]))


def test_a_lost_error_tells_of_each_loss():
    assert str(make(WorkerLostError)).count("node7") == 2
    assert make(WorkerLostError).certificate == CERTIFICATE
    assert LostError("lost").certificate is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ShellError("x", 3), "ended with exit status 3; it wrote nothing to stderr"),
        (ShellError("x", -9), "was killed by signal 9 (SIGKILL)"),
        (ShellError("x", 1, "boom", "/tmp/e"), "the end of its stderr (all of it in /tmp/e):\nboom"),
        (RemoteError("A", ""), "A"),
        (RemoteError("A", "b", "Traceback"), "A: b\n\nTraceback"),
    ],
)
def test_errors_say_what_happened(error, words):
    assert words in str(error)
