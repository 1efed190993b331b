#!/bin/sh
# Starts a program of Weft on a node. What it needs is unpacked on the node's own disk, once for all that need the
# same, and goes when nobody has needed it for a week, or when there is no room for others.
#
#   -e FILE  archive of a Python with its packages    -a MACHINE  the kind of processor that it is for
#   -p PYTHON  or else the Python of the node: a command, its path, or the directory of an environment
#   -u FILE  archive of the user's modules            -k KILOBYTES  that all of it takes
#   -s DIRECTORY  where to unpack
#   -v VERSION, such as 3.11, that Python must have   -i WORDS  that install what may be missing
#   -l LABEL  of the executor
#
# The module to run follows: its function main. The standard input is for it alone.
set -u
environment= archive_machine= python= modules= needed=0 scratch= version= install= label=
while getopts e:a:p:u:k:s:v:i:l: option; do
  case $option in
    e) environment=$OPTARG ;; a) archive_machine=$OPTARG ;; p) python=$OPTARG ;; u) modules=$OPTARG ;;
    k) needed=$OPTARG ;; s) scratch=$OPTARG ;; v) version=$OPTARG ;; i) install=$OPTARG ;; l) label=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
node=$(uname -n)
fail() {
  printf "weft: environment of executor '%s', on %s: %s\n" "$label" "$node" "$*" >&2
  exit 3
}

# What runs once the rest is there. For any Python, however old.
boot='
import sys
version, label, node, install, modules, module = sys.argv[1:]
def fail(words):
    sys.stderr.write("weft: environment of executor %r, on %s: %s\n" % (label, node, words))
    sys.exit(3)
here = "%d.%d" % tuple(sys.version_info[:2])
if here != version:
    fail("%s is Python %s, that of the client %s, and functions cannot pass between them: set environment to one "
         "that has Python %s, or environment=\"pack\" to send the client\047s own" % (sys.executable, here, version, version))
import os
own = [os.path.join(modules, name) for name in sorted(os.listdir(modules)) if name[:1].isdigit()] if modules else []
sys.path[:1 if sys.path[:1] == [""] else 0] = own
try:
    import importlib
    main = importlib.import_module(module).main
except ImportError as error:
    fail("%s (Python %s) lacks what managers need: %s. Set environment=\"pack\" to send the client\047s own, or "
         "run there: %s -m pip install %s" % (sys.executable, here, error, sys.executable, install))
sys.argv[:] = [module]
sys.exit(main())
'

# -- where to unpack ------------------------------------------------------------------------------------------

there() { # whether all that is needed has been unpacked below $1
  for archive in "$environment" "$modules"; do
    [ -z "$archive" ] || [ -e "$1/$(named "$archive")/.complete" ] || return 1
  done
}
named() { name=${1##*/}; printf %s "${name%.tar.gz}"; }
room() { [ "$(df -Pk "$1" | awk 'NR == 2 { print $4 }')" -gt "$needed" ]; }

clean() { # remove what has not been used for $1 days, and is not in use
  for old in "$root"/*-*; do
    [ -d "$old" ] || continue
    [ "$1" -eq 0 ] || [ -n "$(find "$old" -prune -mtime +"$1")" ] || continue
    ( exec 7<"$old" && flock -n -x 7 && rm -rf "$old" ) 2>/dev/null
  done
}

usable() { # whether programs can be unpacked below directory $1, and run; else why not, in $why
  root=$1/weft-$(id -u)
  mkdir -m 700 "$root" 2>/dev/null
  if [ ! -d "$root" ] || [ -L "$root" ] || [ ! -O "$root" ]; then why="$1 is not writable"; return 1; fi
  chmod 700 "$root"
  there "$root" && return
  test_file=$root/.test.$$
  printf '#!/bin/sh\n' 2>/dev/null >"$test_file" && chmod 700 "$test_file" && "$test_file" 2>/dev/null
  works=$?
  rm -f "$test_file"
  [ "$works" -eq 0 ] || { why="no programs run in $1, or it is full"; return 1; }
  room "$root" || clean 0
  room "$root" || { why="$1 has no room for $needed kB"; return 1; }
}

choose() {
  reasons=
  if [ -n "$scratch" ]; then
    eval "scratch=\"$scratch\"" # it may name variables of the job
    mkdir -p "$scratch" 2>/dev/null
    usable "$scratch" || fail "scratch: $why"
    return
  fi
  for directory in /tmp "${TMPDIR:-}" /var/tmp; do
    [ -n "$directory" ] || continue
    usable "$directory" && return
    case "$reasons;" in *"; $why;"*) ;; *) reasons="$reasons; $why" ;; esac
  done
  fail "there is no directory to unpack it in${reasons}: set scratch= of the executor to one on the node's own disk"
}

# -- unpacking ------------------------------------------------------------------------------------------------

hold() { # open descriptor $1 on directory $2, and lock it in mode $3
  while :; do
    mkdir -p -m 700 "$2" && eval "exec $1<\"\$2\"" || fail "$2 cannot be made"
    flock "$3" "$1" || fail "$2 cannot be locked: is it on the node's own disk?"
    [ "$2" -ef "/proc/self/fd/$1" ] && return # nobody has removed it meanwhile
  done
}

# Unpack archive $1, unless somebody has, and keep it for as long as descriptor $2 is open; $3 makes it ready. Its
# directory is in $target.
unpack() {
  target=$root/$(named "$1")
  while hold "$2" "$target" -s; [ ! -e "$target/.complete" ]; do
    hold "$2" "$target" -x
    [ -e "$target/.complete" ] && continue
    [ -r "$1" ] || fail "$1 cannot be read: nodes must share the file system of the host that jobs are submitted on"
    began=$(date +%s)
    find "$target" -mindepth 1 -delete
    words=$(tar -xzof "$1" -C "$target" 2>&1 </dev/null) || fail "$1 cannot be unpacked in $target: $words"
    $3
    : >"$target/.complete"
    echo "weft: $target unpacked on $node in $(($(date +%s) - began)) s" >&2
    clean 7
  done
  touch "$target"
}

ready() { # complete a Python that has just been unpacked, and see whether it works here
  if [ -e "$target/env/pyvenv.cfg" ]; then
    echo "home = $target/base/bin" >>"$target/env/pyvenv.cfg"
  elif [ -e "$target/env/bin/conda-unpack" ]; then
    words=$("$target/env/bin/python" "$target/env/bin/conda-unpack" 2>&1 </dev/null) || fail "conda-unpack: $words"
  fi
  words=$("$target/env/bin/python" -c "" 2>&1 </dev/null) && return
  [ "$archive_machine" = "$(uname -m)" ] ||
    fail "the client's Python is for $archive_machine, this node is $(uname -m): set environment to one of the cluster's own"
  case $words in
    *GLIBC_*)
      newest=$(printf '%s\n' "$words" | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -n 1)
      words="it needs glibc ${newest#GLIBC_} or newer, and there is $(getconf GNU_LIBC_VERSION): take one that suits any (of uv or conda)" ;;
    *"not found"* | *"No such file"*) words="$words. It needs the GNU C library, which this node may not have" ;;
  esac
  fail "the client's Python does not run here: $words"
}

# -- start ----------------------------------------------------------------------------------------------------

modules_in=
if [ -n "$environment$modules" ]; then
  command -v flock >/dev/null || fail "flock is missing (of util-linux)"
  choose
fi
if [ -n "$modules" ]; then
  unpack "$modules" 8 :
  modules_in=$target
fi
if [ -n "$environment" ]; then
  unpack "$environment" 9 ready
  python=$target/env
  unset PYTHONHOME PYTHONPATH
fi
if [ -d "$python" ]; then
  export PATH="$python/bin:$PATH"
  python=$python/bin/python
fi
found=$(command -v "$python") ||
  fail "there is no $python: set environment to a Python of the node, worker_init to what makes it one (module load ...), or environment=\"pack\" to send the client's own"
exec "$found" -c "$boot" "$version" "$label" "$node" "$install" "$modules_in" "$@"
