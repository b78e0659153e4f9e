import pytest
import torch
from planted_store import make_planted, open_planted

from spd_tools.experiments import Subject
from spd_tools.investigate import Investigation


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("investigate")
    make_planted(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Batches are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def subject(planted_folder):
    return Subject(open_planted(planted_folder))


@pytest.fixture
def investigation(subject):
    """One without notes yet: they lie in the test's own SPD_OUT_DIR."""
    return Investigation(subject.harvest, subject)
