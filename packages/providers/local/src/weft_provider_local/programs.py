"""What runs on a far host, for the sh of any: how jobs are started, looked at, ended and found."""

from __future__ import annotations

__all__ = ["CANCEL", "FIND", "PREPARE", "SCRIPT", "START", "STATUS"]

# The state of a process and the time it was started, of /proc/<pid>/stat; a job is known by both numbers.
ALIVE = """\
alive() {
  seen=$(sed 's/.*) //' "/proc/${1%%.*}/stat" 2>/dev/null | cut -d' ' -f1,20)
  case $seen in [ZX]*) return 1;; ?" ${1#*.}") return 0;; *) return 1;; esac
}
"""
SCRIPT = """\
#!/bin/sh
# A block of Weft, on {host}: what it writes is in the files beside this one, how it ended in .exit.
# Never twice: the first to begin the block has it.
(set -C; echo "$$.$(sed 's/.*) //' "/proc/$$/stat" | cut -d' ' -f20)" >{base}.job) 2>/dev/null || exit 0
trap : TERM
{environment}
{command}
echo "$?" >{base}.exit.new && mv -f {base}.exit.new {base}.exit
# What it left in its group ends with it.
kill -KILL 0
"""
PREPARE = """\
command -v "$3" >/dev/null 2>&1 || printf 'weft-missing %s\\n' "$PATH"
CDPATH= cd -- "$1" || exit 1
printf 'weft-directory %s\\n' "$PWD"
if [ -s "./$2.job" ]; then printf 'weft-job %s\\n' "$(cat "./$2.job")"; fi
"""
START = """\
setsid sh "$1.sh" <"$2" >"$1.out" 2>"$1.err" &
tries=0
# Until it is in a group of its own, and has said so.
while [ ! -s "$1.job" ] && [ "$tries" -lt 200 ]; do sleep 0.02; tries=$((tries + 1)); done
if [ -s "$1.job" ]; then printf 'weft-job %s\\n' "$(cat "$1.job")"; fi
"""
STATUS = f"""\
{ALIVE}
limit=$1; shift
while [ $# -gt 1 ]; do
  job=$1 base=$2 state=ended
  shift 2
  if alive "$job"; then state=runs; fi
  length=$(wc -c <"$base.err" 2>/dev/null) || length=0
  [ "$length" -le "$limit" ] || length=$limit
  printf 'weft-status %s %d %s\\n' "$state" "$length" "$(cat "$base.exit" 2>/dev/null)"
  if [ "$length" -gt 0 ]; then tail -c "$limit" "$base.err" | head -c "$length"; fi
  printf '\\n'
  if [ "$state" = ended ]; then rm -f "$base.in"; fi
done
"""
CANCEL = f"""\
{ALIVE}
signal=$1 patience=$2; shift 2
for job; do if alive "$job"; then kill -s "$signal" -- "-${{job%%.*}}"; fi; done
while [ "$patience" -gt 0 ]; do
  left=
  for job; do if alive "$job"; then left=yes; fi; done
  [ -n "$left" ] || exit 0
  sleep 0.1
  patience=$((patience - 1))
done
for job; do if alive "$job"; then kill -s KILL -- "-${{job%%.*}}"; fi; done
exit 0
"""
FIND = """\
for file in $(grep -lzxF -e "WEFT_JOB_TAG=$1" /proc/[0-9]*/environ 2>/dev/null); do
  pid=${file#/proc/}; pid=${pid%/environ}
  set -- "$1" $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f1,4,20)
  case ${2-Z} in [ZX]) continue;; esac
  [ "${3-}" = "$pid" ] && [ "$pid" != "$$" ] || continue
  base=$(tr '\\0' '\\n' <"$file" 2>/dev/null | sed -n 's/^WEFT_JOB_INPUT=\\(.*\\)\\.in$/\\1/p')
  # What a job starts has its environment, and may lead a session too: the record tells them apart.
  case $(cat "$base.job" 2>/dev/null) in '' | "$pid.$4") ;; *) continue;; esac
  name=$(tr '\\0' '\\n' <"$file" 2>/dev/null | sed -n 's/^WEFT_JOB_NAME=//p')
  printf 'weft-found %s.%s %s\\n' "$pid" "$4" "$name"
  printf 'weft-spec %s.%s %s\\n' "$pid" "$4" "${base##*/}"
done
echo weft-end
"""
