#!/bin/sh
# A script that runs programs: one after the other, in pipes, in the background.
# usage: job.sh ROUNDS PAUSE TREE    (milliseconds, the program tree)
rounds=$1 pause=$2 tree=$3
seconds=$(echo "$pause" | awk '{ print $1 / 1000 }')
sum=0
i=0
while [ "$i" -lt "$rounds" ]; do
    i=$((i + 1))
    n=$(seq 1 $((i * 7)) | { sleep "$seconds"; awk '{ s += $1 } END { print s }'; })
    sum=$(((sum * 31 + n) % 1000003))
done
# See common.h.
while [ -n "$MANA_TEST_GO" ] && [ ! -e "$MANA_TEST_GO" ]; do sleep 0.1; done
(sleep "$seconds"; exit 3) &
first=$!
"$tree" 20 "$((pause / 4))" > tree.out &
second=$!
wait "$first"
a=$?
wait "$second"
b=$?
echo "RESULT $sum $a $b $(cut -d' ' -f2-3 tree.out)"
rm -f tree.out
