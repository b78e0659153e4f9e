"""The key is in the headers of requests and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import traceback

import pytest
from llm.asking import ask, call, calls, model
from llm.stand_in import KEY, Drop, Refuse, Say

from spd_tools.errors import SpdToolsError
from spd_tools.llm.api import Api

REPLIES = {
    "answer": Say({"label": "x", "confidence": 1}),
    "echoed in a refusal": Refuse(400, f"no {KEY}"),
    "echoed in an overload": Refuse(529, f"no {KEY}"),
    "dropped": Drop(),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_the_key_is_in_no_outcome_file_or_log(serve, ledger, out_dir, caplog, capfd, reply):
    serve(reply)
    caplog.set_level(logging.DEBUG)
    asked = model(ledger)
    outcomes = asyncio.run(ask(ledger, calls(3)))
    assert KEY not in repr((outcomes, asked, vars(asked), ledger, ledger.calls()))
    written = [path for path in out_dir.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert caplog.text
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())


@pytest.mark.parametrize("status", [401, 403])
def test_the_key_is_in_no_error(serve, ledger, status):
    serve(Refuse(status, f"this key is bad: {KEY}"))
    with pytest.raises(SpdToolsError) as error:
        asyncio.run(ask(ledger, [call()]))
    assert KEY not in "".join(traceback.format_exception(error.value))
    assert "ANTHROPIC_API_KEY" in str(error.value)


def test_a_wrong_key_is_not_shown_either(serve, ledger, good, monkeypatch):
    api = serve(good)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong-0123")
    with pytest.raises(SpdToolsError) as error:
        asyncio.run(ask(ledger, [call()]))
    assert "sk-wrong" not in "".join(traceback.format_exception(error.value))
    assert api.strangers == 1


def test_the_key_is_in_no_repr_of_the_connection(serve, good):
    serve(good)

    async def shown():
        api = Api(max_concurrent=1, timeout_seconds=1)
        await api.close()
        return repr(api) + str(vars(api))

    assert KEY not in asyncio.run(shown())
