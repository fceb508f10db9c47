#!/usr/bin/env bash
# Runs one test program: says when it began, and ends one that hangs, so that the
# run fails with the names of the tests that were still at work.
# Seconds: TEST_LIMIT, twenty minutes by default.
set -euo pipefail
printf '%s  %s\n' "$(date +%T)" "$(basename "$1")"
exec timeout --foreground --kill-after=30 "${TEST_LIMIT:-1200}" "$@"
