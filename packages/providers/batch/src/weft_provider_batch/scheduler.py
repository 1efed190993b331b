"""What a batch system must say: all that a new one has to be written for.

It is a subclass of :class:`BatchProvider` with a few small methods: what goes into a job's script, the
commands that submit, list, look up and cancel, and what their answers mean.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from weft_interfaces import JobId, JobSpec

from .host import Answer
from .job import JobFiles, ListedJob

__all__ = ["Refusal", "Scheduler"]


class Refusal(NamedTuple):
    """What a batch system says about a request that is wrong, and the option that it is about.

    pattern: a regular expression for its words, whatever their case. option: as users know it, such as
    ``partition``.
    """

    pattern: str
    option: str


class Scheduler:
    """The words of one batch system. Nothing here runs a command or waits."""

    system: ClassVar[str]
    """Its name, for messages."""
    directive: ClassVar[str]
    """What begins a line with an option in its scripts, such as ``#SBATCH``; empty if they have none."""
    job_id_variable: ClassVar[str]
    """The variable in which a job finds its own id, as :meth:`parse_submit` gives it."""
    job_variables: ClassVar[str] = ""
    """What the names of a job's variables begin with: a job that is submitted inside of another must not
    inherit them. Empty if it does not.
    """
    host_list_variable: ClassVar[str] = ""
    """The variable that names the file with a job's hosts, where it is on the first one's own disk: the
    script copies it to where all find it. Empty if there is none.
    """
    redirects: ClassVar[bool] = False
    """Whether the script itself sends its output to the files, for :meth:`directives` cannot say it."""
    script_on_stdin: ClassVar[bool] = False
    """Whether the command that submits reads the script from its standard input."""
    array_job: ClassVar[str] = ""
    """What an element of an array says in the shell to have its own id; empty where there are no arrays."""
    array_number: ClassVar[str] = ""
    """The same for its number, counted from 0."""
    refusals: ClassVar[Sequence[Refusal]] = ()
    """Requests that are wrong; the first that matches counts."""
    transient: ClassVar[str] = r"(?!)"
    """A regular expression for refusals that may not last; it counts before :attr:`refusals`."""

    def directives(self, spec: JobSpec, files: JobFiles) -> Sequence[Sequence[str]]:
        """The options of a job, each as arguments: resources, name, label, output files. Raises
        :class:`ConfigError` for a shape that cannot be asked for.
        """
        raise NotImplementedError

    def array_directive(self, count: int) -> str:
        """The option that makes a job an array of so many elements."""
        raise NotImplementedError

    def array_elements(self, array: JobId, count: int) -> Sequence[JobId]:
        """The ids of its elements, in order; ``array`` is what :meth:`parse_submit` gives."""
        raise NotImplementedError

    def submit_command(self, spec: JobSpec, files: JobFiles) -> Sequence[str]:
        """What submits the script ``files.script``."""
        raise NotImplementedError

    def parse_submit(self, output: str) -> JobId | None:
        """The job's id in the answer, among whatever else was printed; None if there is none."""
        raise NotImplementedError

    def queue_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """What lists jobs: all of this user's, or, where that cannot be, these and those with a label of
        ours.

        No ids: all of this user's.
        """
        raise NotImplementedError

    def parse_queue(self, answer: Answer) -> Sequence[ListedJob]:
        """The jobs in the answer. Raises :class:`ValueError` if it is not a whole answer.

        Times are those that the batch system gives; jobs may be in it that have ended. Elements of an
        array are jobs of their own.
        """
        raise NotImplementedError

    def accounting_command(self, ids: Sequence[JobId]) -> Sequence[str] | None:
        """What looks up jobs that are in the queue no longer; None if there is nothing that does."""
        return None

    def parse_accounting(self, answer: Answer) -> Sequence[ListedJob] | None:
        """The jobs in that answer; None if it says that there is no accounting. Raises :class:`ValueError` if
        it is not a whole answer.
        """
        return None

    def cancel_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        """What cancels jobs."""
        raise NotImplementedError

    def cancelled(self, answer: Answer) -> bool:
        """Whether that worked: all jobs were asked to end, had ended, or are not known."""
        return answer.exit_status == 0

    def extra_files(self, spec: JobSpec, files: JobFiles) -> Mapping[str, str]:
        """Other files that its submission needs: text by path."""
        return {}

    query_environment: ClassVar[Mapping[str, str]] = {}
    """Variables for the commands that list and look up."""

    def quote(self, argument: str) -> str:
        """An argument as one word of a line with an option. Raises :class:`ConfigError` if it cannot be."""
        return shlex.quote(argument)
