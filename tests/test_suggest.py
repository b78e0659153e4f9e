from spd_tools.suggest import did_you_mean

LAYERS = [f"h.{block}.{name}" for block in range(8) for name in ("attn.q_proj", "mlp.c_fc")]


def test_close_names_come_first_and_alone():
    assert did_you_mean("mlp.c_fv", ["attn.q_proj", "mlp.c_fc"], "layers") == "did you mean mlp.c_fc?"


def test_several_close_names():
    assert did_you_mean("run-c", ["run-a", "run-b"], "runs") in (
        "did you mean run-a or run-b?",
        "did you mean run-b or run-a?",
    )


def test_without_a_close_name_all_are_listed():
    assert did_you_mean("zzz", ["run-a", "run-b"], "runs") == "the runs are run-a, run-b."


def test_a_long_list_is_cut():
    sentence = did_you_mean("zzz", LAYERS, "layers")
    assert sentence.endswith("h.5.mlp.c_fc and 4 more.")
