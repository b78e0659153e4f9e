"""The loop alone: a stepper that counts."""

import pytest
import torch

from spd_tools.training.interrupts import StopSignal
from spd_tools.training.loop import CheckpointFile, Rhythm, TrainingLoop
from spd_tools.training.schedules import Schedule

SCHEDULE = Schedule(start_val=1.0, final_val_frac=0.0, fn_type="linear")


class Counter:
    """Adds up the rates that it is given."""

    def __init__(self):
        self.total = torch.nn.Parameter(torch.zeros(()))
        self.optimizer = torch.optim.SGD([self.total])
        self.module = torch.nn.ParameterDict({"total": self.total})

    def parts(self):
        return {"module": self.module}

    def take_step(self, step, *, with_record):
        with torch.no_grad():
            self.total += self.optimizer.param_groups[0]["lr"]
        return {"before": float(step)} if with_record else {}


class Notes:
    def __init__(self):
        self.logged, self.evaluated, self.saved = [], [], []

    def log(self, step, record):
        self.logged.append((step, record))

    def evaluate(self, step):
        self.evaluated.append(step)

    def save_model(self, step):
        self.saved.append(step)


def rhythm(**changes):
    arguments = {"steps": 7, "log_freq": 3, "eval_freq": 2, "save_freq": None} | changes
    return Rhythm(lr_schedule=SCHEDULE, **arguments)


def loop_in(folder, stepper, *, identity="a", seconds=0.0):
    file = CheckpointFile(path=folder / "training.pt", identity=identity, seconds=seconds)
    loop = TrainingLoop(stepper, rhythm(), checkpoint=file)
    loop.restore()
    return loop


def test_what_is_done_when():
    notes, progress = Notes(), []
    loop = TrainingLoop(Counter(), rhythm(), checkpoint=None)
    assert loop.run(notes, on_step=lambda done, total: progress.append((done, total)))
    assert notes.logged == [(n, {"lr": SCHEDULE.at(n, 7), "before": float(n)}) for n in (0, 3, 6)]
    assert notes.evaluated == [2, 4, 6, 7]
    assert notes.saved == [7]
    assert progress == [(n, 7) for n in range(1, 8)]


def test_models_are_saved_in_between_where_that_is_wanted():
    notes = Notes()
    TrainingLoop(Counter(), rhythm(save_freq=3), checkpoint=None).run(notes)
    assert notes.saved == [3, 6, 7]


def test_other_ranks_report_nothing_and_take_the_same_steps():
    first, other = Counter(), Counter()
    TrainingLoop(first, rhythm(), checkpoint=None).run(Notes())
    TrainingLoop(other, rhythm(), checkpoint=None).run(None)
    assert torch.equal(first.total, other.total)


@pytest.mark.parametrize("at", range(1, 7))
def test_asked_to_stop_it_saves_and_the_next_one_goes_on(at, tmp_path):
    calm = Counter()
    TrainingLoop(calm, rhythm(), checkpoint=None).run(None)
    stop = StopSignal()

    def ask(done, total):
        stop.requested = done == at

    first = loop_in(tmp_path, Counter(), seconds=1e9)
    assert not first.run(None, stop=stop, on_step=ask)
    assert first.step == at
    stepper = Counter()
    second = loop_in(tmp_path, stepper)
    assert second.step == at
    assert second.run(None)
    assert torch.equal(stepper.total, calm.total)


def test_asked_at_the_last_step_it_is_finished(tmp_path):
    stop = StopSignal()
    stop.requested = True
    loop = TrainingLoop(Counter(), rhythm(steps=1), checkpoint=None)
    assert loop.run(None, stop=stop)


def test_checkpoints_come_as_often_as_was_asked(tmp_path):
    never = loop_in(tmp_path, Counter(), seconds=1e9)
    never.run(None)
    assert not (tmp_path / "training.pt").exists()
    always = loop_in(tmp_path, Counter())
    always.run(None)
    assert loop_in(tmp_path, Counter()).step == 6
