"""Runs a command at a pseudo-terminal. Standard input: [[pattern, keys], ...] as JSON; the keys are typed once the pattern has been
shown since the last keys. Prints all that was shown; the exit status is the command's, or 124 when a pattern does not come."""

import json
import os
import pty
import re
import select
import sys
import time

steps = json.load(sys.stdin)
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])

shown, since, end = "", "", time.monotonic() + 60
while time.monotonic() < end:
    ready, _, _ = select.select([terminal], [], [], 0.1)
    if ready:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            # The other side is closed.
            break
        if not data:
            break
        text = data.decode("utf-8", "replace")
        shown, since = shown + text, since + text
    if steps and re.search(steps[0][0], since, re.DOTALL):
        os.write(terminal, steps.pop(0)[1].encode())
        since = ""
else:
    os.kill(child, 9)

sys.stdout.write(shown)
_, status = os.waitpid(child, 0)
code = os.waitstatus_to_exitcode(status)
sys.exit(124 if steps or code < 0 else code)
