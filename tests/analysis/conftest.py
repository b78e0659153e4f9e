"""Made-up harvests for all tests of this folder."""

from reference_store import store_copy, stored  # noqa: F401
