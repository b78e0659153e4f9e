"""Profiles: YAML and flags -> what submitit is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.errors import SpdToolsError
from spd_tools.launch.profiles import PROFILES, SlurmProfile, load_profile, profile_names


@pytest.fixture
def profile(tmp_path):
    """Load YAML text."""

    def load(text: str) -> SlurmProfile:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return load_profile(str(path))

    return load


@pytest.fixture(autouse=True)
def no_profile(monkeypatch):
    monkeypatch.delenv("SPD_SLURM_PROFILE", raising=False)


@pytest.mark.parametrize("name", profile_names())
def test_every_example_loads_and_submits(name, tmp_path):
    from submitit import AutoExecutor

    own = load_profile(name)
    assert own.model_fields_set
    for gpus in (0, 1):
        parameters = own.submitit_parameters(gpus=gpus, name="x", max_concurrent=2, dependency="afterok:1")
        AutoExecutor(tmp_path, cluster="debug").update_parameters(**parameters)  # refuses what it does not know


def test_the_examples_are_there():
    assert set(profile_names()) == {"gpu", "offline", "one-node", "preemptible"}
    assert (PROFILES / "one-node.yaml").is_file()


def test_nothing_named_is_the_default():
    assert load_profile(None) == SlurmProfile()


def test_the_environment_names_one(monkeypatch):
    monkeypatch.setenv("SPD_SLURM_PROFILE", "one-node")
    assert load_profile(None) == load_profile("one-node") != SlurmProfile()
    assert load_profile("gpu") != load_profile("one-node")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("4:00:00", 240),  # YAML 1.1 makes 14400 of it
        ('"04:00:00"', 240),
        ("1-02:03:04", 24 * 60 + 2 * 60 + 4),
        ("1-02", 26 * 60),
        ("2-00:30", 2 * 1440 + 30),
        ("30:00", 30),
        ("0:00:01", 1),
    ],
)
def test_time_is_read_as_sbatch_reads_it(profile, text, minutes):
    assert profile(f"time: {text}").time == minutes


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_any_time_is_rounded_up_to_minutes(days, hours, minutes, seconds):
    text = f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    exact = days * 86_400 + hours * 3600 + minutes * 60 + seconds
    if exact == 0:
        with pytest.raises(SpdToolsError):
            SlurmProfile().with_flags(time=text)
    else:
        assert SlurmProfile().with_flags(time=text).time == -(-exact // 60)


def test_octal_digits_and_numbers_stay_what_was_written(profile):
    loaded = profile("umask: 0027\naccount: 0123\npartition: 7")
    assert (loaded.umask, loaded.account, loaded.partition) == ("0027", "0123", "7")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("partitoin: x", "has an unknown field 'partitoin'; did you mean partition?"),
        ("without_gpu: {account: x}", "unknown field 'without_gpu.account'; the fields are partition, time, mem"),
        ("[gpu]", "holds no fields"),
        ("x: [", "cannot be read as YAML"),
        ("time: soon", "time: 'soon' is no time limit; write"),
        ("time: 0", "time: 0 does not do: input should be greater than 0"),
        ("mem: 32", "mem: 32 is not an amount of memory with its unit"),
        ("umask: 0999", "umask: '0999' is not a umask"),
        ('partition: "a\\nb"', "plain text without breaks"),
        ("gpus: 1\ngres: gpu:1", "gpus and gres say the same thing"),
        ("extra: {partition: x}", "extra has 'partition', for which there is the field 'partition'"),
        ("extra: {cpus_per_task: 3}", "for which there is the field 'cpus_per_task'"),
        ("extra: {no-requeue: true}", "extra has 'no-requeue', which spd-tools sets itself"),
        ("prepare: there", "prepare: 'there' does not do"),
        ("time: 2\nsignal_delay_s: 90", "may come at the start"),
        ("!!python/object/apply:os.system [ls]", "cannot be read as YAML"),
    ],
)
def test_a_bad_profile_is_one_sentence(profile, text, complaint):
    with pytest.raises(SpdToolsError, match=r"^The profile .*mine\.yaml") as caught:
        profile(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("preemptable", "no profile 'preemptable'; did you mean preemptible"),
        ("../gpu", r"no profile \.\./gpu; name a YAML file"),
        ("nowhere.yaml", "no profile nowhere.yaml; name a YAML file or one of: gpu, offline, one-node, preemptible"),
    ],
)
def test_an_unknown_profile_is_named(name, complaint):
    with pytest.raises(SpdToolsError, match=complaint):
        load_profile(name)


def test_flags_go_on_top(profile):
    changed = profile("partition: a\naccount: b\ntime: 60").with_flags(partition="c", time="2:00:00", account=None)
    assert (changed.partition, changed.account, changed.time) == ("c", "b", 120)


def test_a_flag_replaces_the_other_way_to_ask_for_gpus(profile):
    assert profile("gres: gpu:a100:1").with_flags(gpus=0).gres is None
    assert profile("gpus: 1").with_flags(gres="gpu:a100:1").gpus is None


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"time": "later"}, "^--time: 'later' is no time limit"),
        ({"mem": "lots"}, "^--mem: 'lots' is not an amount"),
        ({"cpus_per_task": 0}, "^--cpus-per-task: 0 does not do: input should be greater than 0"),
        ({"time": "1", "signal_delay_s": 60}, "^A signal 60 s before the end of 1 min may come at the start"),
    ],
)
def test_a_bad_flag_is_named(flags, complaint):
    with pytest.raises(SpdToolsError, match=complaint):
        SlurmProfile().with_flags(**flags)


def test_what_is_not_given_is_left_to_the_cluster():
    parameters = SlurmProfile().submitit_parameters(gpus=1, name="x")
    asked = {"slurm_partition", "slurm_mem", "slurm_account", "slurm_qos", "slurm_gres", "cpus_per_task"}
    assert not asked & parameters.keys()
    assert None not in parameters.values()


@pytest.mark.parametrize(
    ("text", "gpus", "expected"),
    [
        ("{}", 1, {"gpus_per_node": 1}),
        ("{}", 0, {}),
        ("gpus: 2", 1, {"gpus_per_node": 2}),
        ("gpus: 0", 1, {}),
        ("gres: gpu:a100:1", 1, {"slurm_gres": "gpu:a100:1"}),
        ("gres: gpu:a100:1", 0, {}),
    ],
)
def test_gpus(profile, text, gpus, expected):
    parameters = profile(text).submitit_parameters(gpus=gpus, name="x")
    assert {key: parameters[key] for key in ("gpus_per_node", "slurm_gres") if key in parameters} == expected


@pytest.mark.parametrize(
    ("text", "max_concurrent", "expected"),
    [("{}", None, None), ("{}", 3, 3), ("max_gpus: 8", None, 8), ("max_gpus: 8", 3, 3), ("max_gpus: 8\ngpus: 2", 6, 4)],
)
def test_how_many_run_at_a_time(profile, text, max_concurrent, expected):
    parameters = profile(text).submitit_parameters(gpus=1, name="x", max_concurrent=max_concurrent)
    assert parameters.get("slurm_array_parallelism") == expected


def test_srun_is_told_the_cpus_that_sbatch_got(profile):
    parameters = profile("cpus_per_task: 6").submitit_parameters(gpus=1, name="x")
    assert parameters["cpus_per_task"] == 6
    assert parameters["slurm_srun_args"] == ["--cpus-per-task=6"]


def test_a_dependent_is_cancelled_when_it_can_never_run():
    parameters = SlurmProfile().submitit_parameters(gpus=0, name="x", dependency="afterok:7")
    assert parameters["slurm_dependency"] == "afterok:7"
    assert parameters["slurm_additional_parameters"] == {"requeue": True, "kill-on-invalid-dep": "yes"}


def test_set_up_lines_stop_at_the_first_failure_and_do_not_hide_the_code(profile):
    own = profile("umask: 007\nsetup: [module load cuda]")
    parameters = own.submitit_parameters(gpus=1, name="x", environment={"PYTHONPATH": "/my code"})
    lines = parameters["slurm_setup"]
    assert isinstance(lines, list)
    assert lines[0] == "set -e"
    assert "module load cuda" in lines
    assert "umask 007" in lines
    assert lines[-1] == "export PYTHONPATH='/my code'"


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 20), (3, 60), (5, 90), (600, 90)])
def test_the_signal_leaves_time_to_work_on_short_limits(minutes, seconds):
    parameters = SlurmProfile(time=minutes).submitit_parameters(gpus=1, name="x")
    assert parameters["slurm_signal_delay_s"] == seconds


def test_steps_without_a_gpu_have_their_own_resources(profile):
    own = profile("partition: g\ntime: 600\nmem: 8G\nsignal_delay_s: 300\nwithout_gpu: {partition: c, time: 5}")
    worker, merge = (own.submitit_parameters(gpus=gpus, name="x") for gpus in (1, 0))
    asked = ("slurm_partition", "timeout_min", "slurm_mem", "slurm_signal_delay_s")
    assert [worker[name] for name in asked] == ["g", 600, "8G", 300]
    assert [merge[name] for name in asked] == ["c", 5, "8G", 90]


def test_other_options_reach_sbatch(profile):
    own = profile("extra: {mail_type: END, exclusive: true, nice: 100, overcommit: false}")
    parameters = own.submitit_parameters(gpus=1, name="x")
    expected = {"mail-type": "END", "exclusive": True, "nice": 100, "requeue": True}
    assert parameters["slurm_additional_parameters"] == expected


def test_the_suffix_is_added_to_the_name(profile):
    assert profile("job_suffix: try2").submitit_parameters(gpus=1, name="harvest")["name"] == "harvest-try2"


def test_a_profile_survives_json(profile):
    own = profile("time: 1-00:00:00\nsetup: [a, b]\nextra: {exclusive: true}\nwithout_gpu: {mem: 4G}")
    assert SlurmProfile.model_validate_json(own.model_dump_json()) == own


def test_the_examples_are_plain_yaml():
    for path in PROFILES.glob("*.yaml"):
        assert yaml.safe_load(Path(path).read_text())
