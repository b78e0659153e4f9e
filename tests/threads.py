"""Torch with one thread: batches of tests are small, and threads would only wait for each other."""

import torch


def one_thread_each():
    """What a fixture does; its scope is for whoever uses it to choose."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
