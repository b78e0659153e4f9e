import pytest
from threads import one_thread_each

one_thread = pytest.fixture(scope="session", autouse=True)(one_thread_each)
