# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Systems that have no pidfd, no /proc, no fcntl, no poll: there a death shows by the heartbeat and by questions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("heartbeat", ["thread", "process"])
@pytest.mark.parametrize("system", ["macos", "windows"])
def test_what_other_systems_lack_is_not_needed(system: str, heartbeat: str, server_url: str, namespace: str) -> None:
    """A message runs, an orphan is recovered, a last chance is taken, and the worker leaves in order."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.elsewhere", system, server_url, namespace, heartbeat],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"watches": False, "healthy": True, "ran": ["last chance", "recovered", "sent"], "left": []}
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert ("heartbeat='process' is not possible here" in done.stderr) == (
        (system, heartbeat) == ("windows", "process")
    )
