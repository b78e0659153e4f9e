import pytest
from planted_store import make_planted, open_planted
from threads import one_thread_each

from spd_tools.experiments import Subject
from spd_tools.investigate import Investigation


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("investigate")
    make_planted(folder)
    return folder


one_thread = pytest.fixture(scope="module", autouse=True)(one_thread_each)


@pytest.fixture(scope="session")
def subject(planted_folder):
    return Subject(open_planted(planted_folder))


@pytest.fixture
def investigation(subject):
    """One without notes yet: they lie in the test's own SPD_OUT_DIR."""
    return Investigation(subject.harvest, subject)
