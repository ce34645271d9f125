"""What the rooms' Prefect tasks share. Only `tasks/*/stage.py` and the flows import from here; everything else knows no Prefect."""

import tasks.orchestration.engine  # noqa: F401  what it changes is in force from here on
