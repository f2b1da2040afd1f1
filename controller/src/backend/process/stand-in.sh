#!/bin/sh
# Stands in for a worker in the tests beside it: does what the name of its pool says, whatever else it is told.
case "$*" in
*"--life waits-"*) echo waiting; exec sleep 1000 ;;
*"--life exits-"*) echo one; echo two >&2; exit 3 ;;
*"--life faults-"*) kill -SEGV $$ ;;
*"--life greedy-"*) echo "memory allocation of 1048576 bytes failed" >&2; kill -ABRT $$ ;;
*"--life aborts-"*) kill -ABRT $$ ;;
*"--life forks-"*) sleep 1000 & echo "child $!"; exit 0 ;;
*"--life family-"*) sleep 1000 & echo "child $!"; wait ;;
*"--life obeys-"*) trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.05; done ;;
*"--life shows-"*) tr '\0' '\n' </proc/$$/environ; echo "in $(readlink /proc/$$/cwd) from $(readlink /proc/$$/fd/0)" ;;
*) echo "what is a worker to do that is told: $*" >&2; exit 1 ;;
esac
