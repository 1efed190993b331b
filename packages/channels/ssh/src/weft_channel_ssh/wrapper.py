"""What runs a command on the far side, whatever the user's login shell is and prints.

The command line is the same for all commands, and of few characters, so that sh, csh and fish read it alike.
It reads one line of shell from its stdin: arguments and variables pass no login shell, and the values of
variables are in no list of processes. Three processes come of it::

    connection -- stdin --> RELAY -- pipe --> SESSION: the user's command   (a session of its own)
                              |                  |
                              +- end of stdin -> MAIN  waits, and kills the session's tree

- What login files print ends with a mark, on stdout and on stderr; the exit status and the process group
  follow a mark on stderr.
- The relay sees the end of stdin. Where the input's size is known that end is no part of it, and means: kill.
  Else it may be the end of the input: the relay tries, by marks on stdout, whether anybody reads it still.
  (On stderr it would not find out: sshd keeps that open until the command has ended.)
- So a command dies with its connection. What it has put into the background lives on, if its parent has ended
  and its streams are elsewhere.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence

from weft_interfaces import ChannelError

__all__ = ["COMMAND", "Wrapper", "check", "group_killer", "killer"]

COMMAND = """exec /bin/sh -c 'IFS= read -r weft_w && eval "$weft_w"'"""

_MAIN = """
unset weft_w; weft_m=$(printf '\\036%s%s' {mark}); weft_n=$(printf '\\nx'); weft_n=${{weft_n%x}};
exec 3<&0 4>&2 5>&1 </dev/null; printf '%s\\n' "$weft_m"; printf '%s begins %s\\n' "$weft_m" $$ >&4;
exec >/dev/null 2>&1; CDPATH= cd || cd /; weft_c= weft_k=;
weft_kill() {{ weft_t=$(ps -A -o pid= -o ppid= | awk -v r=$$ {tree});
kill -s KILL -- "-$weft_c" "$weft_c" $weft_t; }};
trap 'weft_k=1; [ -z "$weft_c" ] || weft_kill' TERM; trap '' HUP PIPE;
{variables} set -- /bin/sh -c {session} sh {words};
weft_p={python} weft_l={perl};
if command -v setsid; then set -- setsid "$@"; weft_new() {{ exec setsid "$@"; }};
elif command -v python3; then set -- python3 -c "$weft_p" "$@";
weft_new() {{ exec python3 -c "$weft_p" "$@"; }};
elif command -v perl; then set -- perl -e "$weft_l" "$@"; weft_new() {{ exec perl -e "$weft_l" "$@"; }};
else weft_new() {{ exec "$@"; }}; fi;
weft_new /bin/sh -c {relay} sh {size} $$ "$weft_m" | "$@" >&5 & weft_c=$!;
[ -z "$weft_k" ] || weft_kill; exec 3<&- 5>&-;
while :; do wait "$weft_c"; weft_s=$?; kill -0 "$weft_c" || break; done;
[ -z "$weft_k" ] || weft_s=137;
printf '%s ended %s %s\\n' "$weft_m" "$weft_s" "$weft_c" >&4
"""

# $1: how many bytes of input there are, or all; $2: the main process; $3: the mark.
_RELAY = """
trap - HUP PIPE; printf '%s\\n' $$; exec 4>&-;
if [ "$1" = all ]; then (exec 5>&-; exec cat <&3); exec >/dev/null; trap '' PIPE; weft_i=1;
while printf '%s\\n' "$3" >&5; do sleep $weft_i 5>&-; [ $weft_i -ge 5 ] || weft_i=$((weft_i+1)); done;
else exec 5>&-; [ "$1" = 0 ] || head -c "$1" <&3; exec >/dev/null; cat <&3; fi;
kill -TERM "$2"
"""

# $1: the directory; $2: how many variables there are, in weft_1 and so on; then the command. The first line
# of its stdin is the relay's process.
_SESSION = """
trap - HUP PIPE; IFS= read -r weft_r; exec 3<&- 5>&-; weft_d=$1; weft_i=$2; shift 2;
while [ "$weft_i" -gt 0 ]; do eval "weft_v=\\$weft_$weft_i"; unset "weft_$weft_i"; export "$weft_v";
weft_i=$((weft_i-1)); done; unset weft_i weft_v;
if CDPATH= cd -- "$weft_d" >/dev/null; then (exec "$@") 2>&4 4>&-; weft_s=$?;
else printf '%s: no such directory to run a command in\\n' "$weft_d" >&4; weft_s=127; fi;
kill -s KILL -- "-$weft_r" "$weft_r"; exit $weft_s
"""

# The descendants of process r, the relay among them (some shells wait for both); from lines of process and
# parent.
_TREE = """
{p[$1]=$2} END {t[r]=1; do {n=0; for (i in p) if (!(i in t) && (p[i] in t)) {t[i]=1; n=1}} while (n);
delete t[r]; for (i in t) print i}
"""

_PYTHON = (
    "import os,signal,sys; os.setsid(); signal.signal(signal.SIGPIPE, signal.SIG_DFL);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
_PERL = "use POSIX; POSIX::setsid(); exec @ARGV"


# What shells keep for themselves: the program that is started gets these otherwise.
_SHELLS_OWN = ("BASHOPTS", "BASH_VERSINFO", "EUID", "IFS", "PPID", "SHELLOPTS", "UID")


class Wrapper:
    """One command for the far side: ``line`` is sent to the stdin of ``COMMAND``, before the input.

    mark: what separates the wrapper's words from all others; nobody there can know it beforehand. A forced
    command that sends back what it gets shows no mark, for it is sent in halves.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], cwd: str | None, size: int | None
    ) -> None:
        """size: of the input, where it is known."""
        halves = ["weft-" + secrets.token_hex(8), secrets.token_hex(8)]
        self.mark = b"\x1e" + "".join(halves).encode()
        directory = cwd or "."
        plain = {
            name: value
            for name, value in environment.items()
            if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name not in _SHELLS_OWN
        }
        exports = [
            f"export weft_{number}={_quote(f'{name}={value}')};"
            for number, (name, value) in enumerate(plain.items(), 1)
        ]
        other = [f"{name}={value}" for name, value in environment.items() if name not in plain]
        words = [directory if directory.startswith("/") else f"./{directory}", str(len(exports))]
        words += [*(["env", *other] if other else []), *argv]
        text = _MAIN.format(
            mark=" ".join(halves),
            tree=_quote(_joined(_TREE)),
            session=_quote(_joined(_SESSION)),
            relay=_quote(_joined(_RELAY)),
            variables=" ".join(exports),
            words=" ".join(map(_quote, words)),
            size="all" if size is None else size,
            python=_quote(_PYTHON),
            perl=_quote(_PERL),
        )
        self.line = os.fsencode(_joined(text)) + b"\n"


def check(argv: Sequence[str], environment: Mapping[str, str], host: str) -> None:
    """Raises :class:`ChannelError` for what no machine could start."""
    if not argv:
        raise ChannelError(f"argv: there is nothing to run on {host}")
    for word in (*argv, *environment.keys(), *environment.values()):
        if "\0" in word:
            raise ChannelError(f"{argv[0]!r} could not be started on {host}: {word!r} has a null character")
        try:
            os.fsencode(word)
        except UnicodeEncodeError as error:
            raise ChannelError(f"{argv[0]!r} could not be started on {host}: {error}") from error
    for name in environment:
        if not name or "=" in name:
            raise ChannelError(f"{argv[0]!r} could not be started on {host}: {name!r} cannot name a variable")


def killer(main: int) -> str:
    """The command line that has a wrapper kill its command, and waits for that, two seconds at most."""
    return (
        f"exec /bin/sh -c 'kill -TERM {main} 2>/dev/null; i=0; while kill -0 {main} 2>/dev/null;"
        " do [ $i -lt 20 ] || break; sleep 0.1 2>/dev/null || sleep 1; i=$((i+1)); done'"
    )


def group_killer(group: int) -> str:
    """The command line that kills what is left of an ended command's process group."""
    return f"exec /bin/sh -c 'kill -s KILL -- -{group} 2>/dev/null'"


def _joined(script: str) -> str:
    return " ".join(script.split("\n")).strip()


def _quote(word: str) -> str:
    """As one word of a shell's line."""
    return "'" + word.replace("'", "'\\''").replace("\n", "'\"$weft_n\"'") + "'"
