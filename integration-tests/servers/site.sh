# The file systems of a site's first host, in a mount namespace of its own: arguments are an empty folder for its
# root, a folder that is shared with this machine, and the sizes of /home and /scratch. /home, /scratch, /etc and
# the rest are its own; of this machine it has the programs and libraries below /usr, without any Python.
# /.laptop/old, for root alone, is this machine: what the site is to see later is mounted from there.
root=$1 shared=$2
mount -t tmpfs -o mode=755 site "$root"
cd "$root"
mkdir -p usr dev sys proc etc run/etc run/bin run/sshd var/log var/tmp tmp home scratch
mkdir -m 711 root
mkdir -m 700 .laptop
mkdir .laptop/old
mount --rbind /usr usr
for part in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$part" ]; then cp -a "/$part" "$part"
  elif [ -d "/$part" ]; then mkdir "$part"; mount --rbind "/$part" "$part"; fi
done
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount --rbind /sys sys
mount -t proc proc proc
mount -t tmpfs -o "mode=755,size=$3" home home
mount -t tmpfs -o "mode=1777,size=$4" scratch scratch
mount -t tmpfs -o mode=755 local usr/local
mkdir usr/local/bin
chmod 1777 tmp var/tmp
mkdir -p ".$shared"
mount --bind "$shared" ".$shared"

mount --bind /etc run/etc
for name in /etc/*; do
  [ -e "$shared/etc/${name#/etc/}" ] || ln -s "/run$name" etc/
done
cp -a "$shared/etc/." etc/
chown 0:0 etc

mount --bind /usr/bin run/bin
mkdir run/login
programs=(run/bin/*)
ln -s -t run/login "${programs[@]/#//}"
rm -f run/login/python* run/login/pip*
cp -a run/login run/compute
mount --bind run/login usr/bin

cp -a "$shared/home/." home/
pivot_root . .laptop/old
cd /
