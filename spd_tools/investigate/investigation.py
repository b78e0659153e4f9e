"""A harvest, the live model behind it and what is known about its components, together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spd_tools.annotations import Annotations, EvidenceRecord, normalised
from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest

if TYPE_CHECKING:
    # torch takes seconds, and whoever only reads or writes notes must not wait for it.
    from spd_tools.experiments import Replay, Request, Result, Subject

_GENERATE_AND_TEST = "generate_and_test"
_SHOWN = 3


class Investigation:
    """Runs experiments on one harvest and keeps their results as evidence.

    Not thread-safe, because the model is not: whoever shares one between threads holds a lock around each call.
    """

    def __init__(self, harvest: Harvest, subject: Subject | None = None) -> None:
        """``subject``: the same harvest's, where its model is loaded already or has to be on a certain device."""
        assert subject is None or subject.harvest is harvest
        self.harvest = harvest
        if subject is not None:
            self.__dict__["subject"] = subject

    @cached_property
    def subject(self) -> Subject:
        """What is experimented on; its model is loaded when an experiment first needs it."""
        from spd_tools.experiments import Subject

        return Subject(self.harvest)

    @cached_property
    def notes(self) -> Annotations:
        """Evidence, hypotheses, labels and the research log of the harvest's run.

        Raises:
            SpdToolsError: when those kept under that name are about another decomposition.
        """
        return Annotations.of(self.harvest)

    def run(self, name: str, parameters: Mapping[str, Any], *, author: str) -> Result:
        """Do an experiment and store its result as evidence.

        A question that was asked before on an equal machine is answered from the evidence. A generate-and-test without
        near misses only proposes some: nothing is tested, so nothing is stored.

        Args:
            name: of the experiment.
            parameters: fields of its request.
            author: who asks.

        Raises:
            SpdToolsError: for an unknown experiment, parameters that do not fit, texts of a generate-and-test that the
                component was run on before, or whatever the experiment itself refuses.
        """
        from spd_tools.experiments import make_request, run

        request = make_request(name, parameters)
        self.harvest.keys.flat(request.key)
        if _only_proposes(request):
            return run(self.subject, request)
        identity = self.subject.identity(request)
        stored = self.notes.find_evidence(identity["id"])
        if stored is None:
            self._refuse_used_texts(request)
        elif (answer := _readable(stored)) is not None and answer.machine == identity["machine"]:
            return answer
        result = run(self.subject, request)
        self.notes.add_evidence(result, author=author)
        return result

    def replay(self, evidence_id: str) -> Replay:
        """Do an experiment again whose result is stored, on the harvest that it was done on, and compare.

        Raises:
            SpdToolsError: when there is no such evidence, or its harvest is gone.
        """
        from spd_tools.experiments import Subject, replay
        from spd_tools.store.reader import open_harvest

        first = self.notes.evidence(evidence_id).result
        if first.subject.harvest_id == self.harvest.harvest_id:
            return replay(self.subject, first)
        return replay(Subject(open_harvest(self.harvest.run_id, first.subject.harvest_id)), first)

    def _refuse_used_texts(self, request: Request) -> None:
        """A label is tested on texts that nothing was learnt from."""
        if request.experiment != _GENERATE_AND_TEST:
            return
        from spd_tools.experiments.generate_and_test import GenerateAndTestRequest

        assert isinstance(request, GenerateAndTestRequest)
        used = self.notes.texts_used(request.key)
        texts = (*request.positives, *request.negatives, *request.near_misses)
        again = [text for text in texts if normalised(text) in used]
        if again:
            shown = ", ".join(repr(text) for text in again[:_SHOWN])
            more = f" and {len(again) - _SHOWN} more" if len(again) > _SHOWN else ""
            raise SpdToolsError(
                f"{request.key} has been run on {shown}{more} before, and only fresh texts test a label; "
                "put others in their place."
            )


def _readable(record: EvidenceRecord) -> Result | None:
    """A stored result; None for one of another version of the experiment, whose fields were others."""
    try:
        return record.result
    except SpdToolsError:
        return None


def _only_proposes(request: Request) -> bool:
    """Whether this is a generate-and-test that has yet to be given its near misses."""
    if request.experiment != _GENERATE_AND_TEST:
        return False
    from spd_tools.experiments.generate_and_test import GenerateAndTestRequest

    assert isinstance(request, GenerateAndTestRequest)
    return not request.near_misses
