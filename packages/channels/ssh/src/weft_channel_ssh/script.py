"""The programs for the far side's sh that move files. Each says what went wrong by its exit status."""

from __future__ import annotations

from .digest import FAR_SUM

__all__ = [
    "ABSENT",
    "CHANGED",
    "FETCH",
    "LOOK",
    "MAKE",
    "NOT_EMPTY",
    "NO_DIRECTORY",
    "PREPARE",
    "SPECIAL",
    "STORE",
    "TAKEN",
    "WRONG_KIND",
]

ABSENT, TAKEN, NOT_EMPTY, WRONG_KIND, CHANGED, NO_DIRECTORY, SPECIAL = 93, 94, 95, 96, 97, 98, 99

# $1: the directory; $2: the name; $3: file or tree.
_PLACE = f"""
cd -- "$1" >/dev/null 2>&1 || {{ [ ! -d "$1" ] && exit {ABSENT}; cd -- "$1" || exit 1; }}
if [ -d "$2" ]; then
    [ "$3" = tree ] || exit {TAKEN}
    [ -z "$(ls -A "$2")" ] || exit {NOT_EMPTY}
elif [ "$3" = tree ] && [ -e "$2" ]; then exit {WRONG_KIND}; fi
"""

# $4: the partial file of this channel; $5: how the names of other channels' begin, for the same content.
# One that nobody has written to for a minute is taken over. Writes the size and the sum of what is there.
PREPARE = (
    FAR_SUM
    + _PLACE
    + """
if [ ! -e "$4" ]; then for each in "$5"*.part; do
    [ -n "$(find "$each" -mmin +1 2>/dev/null)" ] && mv -f "$each" "$4" 2>/dev/null && break
done; fi
if [ -s "$4" ]; then echo $(wc -c < "$4") "$(weft_sum < "$4")"; else echo 0 none; fi
"""
)

# $4: the partial file; $5: where to go on; $6: the size; $7, $8: its sums; $9: the permissions of a file.
STORE = (
    FAR_SUM
    + _PLACE
    + f"""
umask 077
[ "$5" -gt 0 ] || rm -f "$4"
cat >> "$4" || {{ rm -f "$4"; exit 1; }}
[ $(wc -c < "$4") -eq "$6" ] || exit {CHANGED}
sum=$(weft_sum < "$4")
[ "$sum" = "$7" ] || [ "$sum" = "$8" ] || {{ rm -f "$4"; exit {CHANGED}; }}
if [ "$3" = file ]; then chmod "$9" "$4" && mv -f "$4" "$2" || {{ rm -f "$4"; exit 1; }}
else
    mkdir "$4.d" && tar -xpof "$4" -C "$4.d" && {{ [ ! -d "$2" ] || rmdir "$2"; }} && mv "$4.d" "$2" ||
        {{ chmod -R u+w "$4.d"; rm -rf "$4" "$4.d"; exit 1; }}
    rm -f "$4"
fi
"""
)

# $1: the path; $2: how large a file may be for its content to follow at once. Writes the kind, the size, the
# permissions and the sum. What tar cannot read is not left out: that is an error.
LOOK = (
    FAR_SUM
    + f"""
[ -e "$1" ] || [ -h "$1" ] || {{ ls -d "$1" >/dev/null; exit {ABSENT}; }}
if [ -d "$1" ]; then
    cd -- "$1" >/dev/null || exit 1
    sum=$(exec 3>&1; {{ tar -cf - . || echo broken >&3; }} | weft_sum) || exit 1
    case $sum in *broken*) exit 1 ;; esac
    echo "tree 0 - $sum"
elif [ -e "$1" ] && [ ! -f "$1" ]; then exit {SPECIAL}
else
    size=$(wc -c < "$1") && mode=$(ls -ldL "$1") && sum=$(weft_sum < "$1") || exit 1
    echo "file" $size "${{mode%% *}}" "$sum"
    [ "$size" -gt "$2" ] || exec cat "$1"
fi
"""
)

# $1: the path; $2: file or tree; $3: the number of the first byte, from 1; $4: how many.
FETCH = """
if [ "$2" = tree ]; then cd -- "$1" >/dev/null && tar -cf - . | tail -c "+$3"
elif [ "$3" = 1 ]; then exec cat "$1"
else exec tail -c "+$3" "$1"; fi
"""

# $1: the directory; $2: the mask.
MAKE = f"""
[ ! -d "$1" ] || exit 0
[ ! -e "$1" ] || exit {NO_DIRECTORY}
umask "$2" && mkdir -p -- "$1"
"""
