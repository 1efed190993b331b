#!/bin/sh
# Runs a command, such as pytest, with the Slurm of another Debian release: its daemons and commands come first in PATH.
#
#     integration-tests/servers/other_slurm.sh trixie /opt/trixie hatch run pytest integration-tests/test_slurm.py
#
# The release is installed into the directory, 300 MB, unless it is there. Needs root and debootstrap. Not part of CI.
set -eu
release=$1 root=$2
shift 2
programs="munged sacct sacctmgr salloc sbatch scancel scontrol sinfo slurmctld slurmd slurmdbd squeue srun"
if [ ! -x "$root/usr/sbin/slurmctld" ]; then
    packages=slurmctld,slurmd,slurm-client,slurmdbd,slurm-wlm-mysql-plugin,munge,python3-minimal
    debootstrap --variant=minbase --include=$packages "$release" "$root"
fi
wrappers=$(mktemp -d)
trap 'rm -rf "$wrappers"' EXIT
for name in $programs; do
    path=/usr/bin/$name
    [ -x "$root$path" ] || path=/usr/sbin/$name
    # Jobs are inside already.
    printf '#!/bin/sh\n[ -d %s ] || exec %s "$@"\nexec chroot %s env -C "$PWD" %s "$@"\n' \
        "$root" "$path" "$root" "$path" >"$wrappers/$name"
done
chmod +x "$wrappers"/*
# What the jobs need of this machine, and the disk that we are on, is shown there for as long as the command runs.
# shellcheck disable=SC2016
PATH=$wrappers:$PATH unshare --mount --propagation private sh -c '
    for name in proc sys dev tmp home root $(pwd | cut -d/ -f2); do
        [ ! -d "/$name" ] || { mkdir -p "$0/$name" && mount --rbind "/$name" "$0/$name"; }
    done
    exec "$@"' "$root" "$@"
