"""A process that publishes again and again, so that every fault does not have to wait for its imports.

Reads a line of JSON with the arguments of push_to_hub.py and changes of the environment, answers with a line.
"""

import contextlib
import io
import json
import os
import sys
import traceback

from ddpm_cars.cli import commands as cli

for line in sys.stdin:
    request = json.loads(line)
    os.environ.update(request["environment"])
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["push_to_hub.py"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.push_to_hub(request["arguments"])
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception:
            code = 70
            traceback.print_exc(file=err)
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), flush=True)
