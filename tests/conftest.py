"""What all tests share: the fixtures of the local cluster, and that no test fails because a machine is busy."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.cluster.fixtures"]

settings.register_profile("on any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("on any machine")
