"""What ``scripts/chaos`` runs."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is started yet, so Ctrl-C may just end; `main` takes over

from scripts.chaos_run.run import main  # noqa: E402 - importing takes half a second, too long to be deaf to Ctrl-C

sys.exit(main(sys.argv[1:]))
