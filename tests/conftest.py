"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No test depends on how fast the machine is: others run beside it.
settings.register_profile("skyhold", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("skyhold")
