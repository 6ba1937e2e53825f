# Ends a broker that was started here once nobody has used it for a while.
# arguments: folder, seconds without a user, seconds of life, the same when kept, shared | private
#
# Every user holds a shared lock on the file `lease`; the kernel lets go of it when the user ends,
# however it ends. `pids` names the processes to end; when it is gone somebody else has ended them.
# Without the flock program nobody can be seen, so only the longest life counts.
folder=$1 idle_max=$2 life_max=$3 keep_max=$4 kind=$5
every=5
[ "$idle_max" -lt "$every" ] && every=1
idle=0 life=0
echo $$ >"$folder/watchdog"

ours() {
    if [ -d /proc/self ]; then
        tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "$folder"
    else
        ps -o command= -p "$1" | grep -qF -- "$folder"
    fi
}
used() {
    [ -e "$folder/keep" ] && return 0
    command -v flock >/dev/null || return 0
    ! flock -n -x "$folder/lease" true
}
end() {
    while read -r pid; do
        ours "$pid" && kill -s KILL "$pid"
    done <"$folder/pids"
    rm -f "$folder/pids" "$folder/state.json" "$folder/keep"
    # Data of a server that may not run as root.
    [ -f "$folder/elsewhere" ] && rm -rf -- "$(cat "$folder/elsewhere")"
    [ "$kind" = private ] && rm -rf "$folder"
    exit 0
}

while sleep "$every"; do
    [ -e "$folder/pids" ] || exit 0
    # A newer watchdog has taken over.
    [ "$(cat "$folder/watchdog" 2>/dev/null)" = $$ ] || exit 0
    life=$((life + every))
    limit=$life_max
    [ -e "$folder/keep" ] && limit=$keep_max
    [ "$life" -ge "$limit" ] && end
    if used; then
        idle=0
        continue
    fi
    idle=$((idle + every))
    [ "$idle" -lt "$idle_max" ] && continue
    # Under the lock nobody can become a user between the last look and the end.
    exec 9>>"$folder/lock"
    if flock -n 9 && ! used; then
        end
    fi
    exec 9>&-
done
