"""Is this machine, or this job of several, fit to train? Each check looks at one thing and says what to do about it.

`llm/tools/doctor.py` carries them out. The configuration of a run is the dry run's business (`trainer/dry_run.py`).
"""

from .finding import FAIL, OK, WARN, Finding
from .visit import Visit, examine_job, examine_machine

__all__ = ["FAIL", "OK", "WARN", "Finding", "Visit", "examine_job", "examine_machine"]
