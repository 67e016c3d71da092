"""The page in a real browser, in front of the real service and the fake model server; its client module in Node."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.pages")
