"""The tests see the same environment on every machine."""

import os
import subprocess
import sys
from pathlib import Path

SHOW = """
import os
import tests.conftest
from accelerate.commands.config.config_args import default_config_file
from pathlib import Path
print(sorted(name for name in os.environ if os.environ[name] == "theirs"), Path(default_config_file).exists())
"""


def test_what_others_have_set_does_not_reach_the_tests(tmp_path: Path):
    theirs = "RANK COLUMNS http_proxy ALL_PROXY HF_ENDPOINT HF_DATASETS_CACHE ACCELERATE_MIXED_PRECISION WANDB_MODE"
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").touch()
    environment = (
        os.environ | dict.fromkeys([*theirs.split(), "SOMETHING_ELSE"], "theirs") | {"HF_HOME": str(tmp_path)}
    )
    done = subprocess.run([sys.executable, "-c", SHOW], env=os.environ | environment, capture_output=True, text=True)
    assert done.stdout.strip() == "['SOMETHING_ELSE'] False", done.stderr
