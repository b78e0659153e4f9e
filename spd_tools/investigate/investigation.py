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
    from spd_tools.experiments.records import Machine

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

        A question that was asked before is answered from the evidence, which is never changed; ``remark`` tells where
        that was computed elsewhere. A generate-and-test without near misses only proposes some: nothing is tested, so
        nothing is stored.

        Args:
            name: of the experiment.
            parameters: fields of its request.
            author: who asks.

        Raises:
            SpdToolsError: for an unknown experiment, parameters that do not fit, a generate-and-test of no label or
                with texts that the component was run on before or that are judged on words which the vocabulary
                lacks, or whatever the experiment itself refuses.
        """
        from spd_tools.experiments import make_request, run
        from spd_tools.experiments.unknown_words import refuse_unknown_triggers

        request = make_request(name, parameters)
        self.harvest.keys.flat(request.key)
        _refuse_no_label(request)
        if _only_proposes(request):
            refuse_unknown_triggers(request, self.harvest.token_texts)
            return run(self.subject, request)
        evidence_id, answer = self._known(request)
        if answer is not None:
            return answer
        self._refuse_used_texts(request)
        if request.experiment == _GENERATE_AND_TEST:
            refuse_unknown_triggers(request, self.harvest.token_texts)
        result = run(self.subject, request).model_copy(update={"id": evidence_id})
        self.notes.add_evidence(result, author=author)
        return result

    def remark(self, result: Result) -> str | None:
        """What to know about a stored result that was computed elsewhere or by another version; None otherwise."""
        here = self.subject.identity(result.request)["machine"]
        if result.machine == here:
            return None
        return (
            f"{result.id} is an answer from the evidence, computed elsewhere ({_described(result.machine)}; here are "
            f"{_described(here)}): replay {result.id} does it again and compares."
        )

    def _known(self, request: Request) -> tuple[str, Result | None]:
        """Id of the answer to a question, and the answer if it is stored.

        Where an older version stored one whose fields were others, it stays, and the answer has an id of its own: that
        one's with "-2" after it, or the next number.
        """
        first = evidence_id = self.subject.identity(request)["id"]
        number = 1
        while (stored := self.notes.find_evidence(evidence_id)) is not None:
            answer = _readable(stored)
            if answer is not None:
                return evidence_id, answer
            number += 1
            evidence_id = f"{first}-{number}"
        return evidence_id, None

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


def _described(machine: Machine) -> str:
    return f"{machine.device}; torch {machine.torch}, spd-tools {machine.spd_tools}"


def _readable(record: EvidenceRecord) -> Result | None:
    """A stored result; None for one of another version of the experiment, whose fields were others."""
    try:
        return record.result
    except SpdToolsError:
        return None


def _refuse_no_label(request: Request) -> None:
    """A new test says which label it is of; requests from before that was asked can only be replayed."""
    if request.experiment == _GENERATE_AND_TEST and getattr(request, "label", None) is None:
        raise SpdToolsError(
            f"{_GENERATE_AND_TEST} needs label; give the input view that the texts were written from, word for word."
        )


def _only_proposes(request: Request) -> bool:
    """Whether this is a generate-and-test that has yet to be given its near misses."""
    return request.experiment == _GENERATE_AND_TEST and not getattr(request, "near_misses", None)
