"""The environment of the tests: what a person or a machine has set for other programs does not reach them."""

import atexit
import os
import shutil
import signal
import tempfile

# Of processes that know each other, of terminals, of programs that draw or fetch, and of the make that runs the tests.
_NAMES = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "COLUMNS",
    "FORCE_COLOR",
    "MPLBACKEND",
    "MFLAGS",
}
_BEGINNINGS = ("HF_", "HUGGING_FACE_", "ACCELERATE_", "FSDP_", "GRADIO_", "MAKE", "WANDB_")


def forget_the_environment() -> None:
    """Remove such variables, and give the libraries of Hugging Face an empty home and no network."""
    for name in [*os.environ]:
        if name in _NAMES or name.startswith(_BEGINNINGS) or name.lower().endswith("_proxy"):
            del os.environ[name]
    # Who runs the tests in the background of a shell ignores Ctrl-C, and every process that they start would too.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Else `accelerate config` would have decided how the tests start processes.
    home = tempfile.mkdtemp(prefix="ddpm-cars-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1"}
