"""The service as it is really started, over real sockets: what no test inside its process can prove."""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("models", "namespaces", "raw_client", "service")))
