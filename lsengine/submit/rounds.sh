# Rounds: the end of every script that "lsengine submit" writes; see docs/OPERATIONS.md.
# Before it are set: run, the command; progress, a function that prints a number which changes
# when something has been finished; left, one that prints 0 if nothing is missing, and nothing if
# that is not known; restarts, how often SLURM has put the job back; most_fruitless; signal_s, how
# long before the time limit SLURM sends SIGUSR1.
# shellcheck shell=bash disable=SC2154,SC2317
set -u

say() { printf '%s round %d: %s\n' "$(date +%FT%T)" $((restarts + 1)) "$*"; }

# The number alone of an array's last task means the whole array.
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID}

# What a round knows of those before is the job's comment, which a requeue keeps.
recall() { # prints: rounds without fruit, progress, whether the round came to its end
    scontrol -o show job "$id" |
        sed -n 's/.* Comment=lsengine fruitless=\([0-9]*\) progress=\([0-9]*\) \([a-z]*\).*/\1 \2 \3/p'
}
remember() {
    scontrol update JobId="$id" Comment="lsengine fruitless=$1 progress=$2 $3" ||
        say "SLURM does not keep the job's comment: fruitless rounds are not counted"
}
give_up_if_fruitless() { # CODE
    if [ "$fruitless" -ge "$most_fruitless" ]; then
        say "giving up: $fruitless round(s) in a row have finished nothing new." \
            "Allow more time, look above for the cause, then submit again"
        exit "$1"
    fi
}

child='' heard='' warned='' cancelled='' timer=''
pass_on() { # to the launcher, which tells all ranks
    heard=1
    if [ -n "$child" ]; then kill -USR1 "$child" 2>/dev/null; fi
}
insist() { # LAUNCHER: one that hangs must not keep the job from being put back in time
    local start=$SECONDS quarters=2 signal
    for signal in TERM KILL; do # after a half and three quarters of the time that is left
        while [ $((4 * (SECONDS - start))) -lt $((quarters * signal_s)) ]; do sleep 1; done
        say "has not stopped after $((SECONDS - start)) s; sending SIG$signal to the launcher"
        kill -s "$signal" "$1" 2>/dev/null
        quarters=3
    done
}
warn() {
    warned=1
    say "the time limit is near; asking all ranks to stop"
    pass_on
    if [ -n "$child" ] && [ -z "$timer" ]; then
        insist "$child" &
        timer=$!
    fi
}
trap warn USR1
trap 'cancelled=1; say "cancelled; asking all ranks to stop"; pass_on' TERM

before=$(progress)
fruitless=0 last='' state=''
read -r fruitless last state < <(recall)
fruitless=${fruitless:-0}
if [ "$state" = running ] && [ "$last" = "$before" ]; then # killed together with its script
    fruitless=$((fruitless + 1))
    give_up_if_fruitless 1
fi
remember "$fruitless" "$before" running
say "job $id on ${SLURM_JOB_NODELIST:-?}, progress $before: ${run[*]}"

code=75
if [ -z "$warned$cancelled" ]; then
    "${run[@]}" &
    child=$!
    # A signal ends the wait, not the launcher.
    while wait "$child"; code=$?; [ -n "$heard" ]; do heard=''; done
    child=''
    if [ -n "$timer" ]; then kill "$timer" 2>/dev/null; fi
fi
after=$(progress)

if [ "$code" = 0 ]; then
    missing=$(left)
    if [ "$missing" != 0 ]; then # mpirun --with-ft ulfm says 0, too, if all ranks were killed
        say "the launcher says 0, but ${missing:-an unknown number of} cells are missing"
        code=75
    fi
fi
case $code in
    0) say "done"; exit 0 ;;
    2) why="job or usage wrong" ;;
    3) why="environment unfit" ;;
    4) why="the file belongs to another job, is locked or damaged" ;;
    5) why="finished, but some cells failed" ;;
    *) why='' ;;
esac
if [ -n "$why" ]; then
    say "ended with $code: $why; another round would not help"
    exit "$code"
fi
if [ -n "$cancelled" ]; then
    say "ended with $code after it was cancelled; submitted again, it goes on"
    exit "$code"
fi
if [ "$after" = "$before" ]; then fruitless=$((fruitless + 1)); else fruitless=0; fi
give_up_if_fruitless "$code"
remember "$fruitless" "$after" ended
say "ended with $code, progress $before to $after; back into the queue"
# A requeue ends this script; by itself it must not end before, which would be the job's end.
trap 'exit "$code"' TERM
if ! scontrol requeue "$id"; then
    say "SLURM does not put it back: submit it again"
    exit "$code"
fi
sleep 60 &
wait
exit "$code"
