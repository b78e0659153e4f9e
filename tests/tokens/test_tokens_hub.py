import builtins
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import list_token_caches, prepare_tokens

datasets = pytest.importorskip("datasets")

AB_CDE = [[2, 3, 0, 4], [5, 6, 0]]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def clone(tmp_path):
    """A folder as a hub data set has it."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: some/*.parquet\n  - split: held\n    path: other.parquet\n---\n"
    )
    (folder / "some").mkdir()
    pq.write_table(pa.table({"n": [1], "text": ["a b"]}), folder / "some" / "0.parquet")
    pq.write_table(pa.table({"n": [2], "text": ["c d e"]}), folder / "some" / "1.parquet")
    pq.write_table(pa.table({"n": [3], "text": ["z"]}), folder / "other.parquet")
    return folder


@pytest.fixture
def hub(clone, monkeypatch):
    """The clone under the name "some/set", revision r1, with a switch for the network."""

    class Hub:
        reachable = True
        revision = "r1"
        opened = 0

    real = datasets.load_dataset_builder

    def load_dataset_builder(name, config=None):
        if not Hub.reachable:
            raise ConnectionError("Couldn't reach the hub")
        assert name == "some/set"
        Hub.opened += 1
        builder = real(str(clone), config)
        builder.hash = Hub.revision
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    return Hub


def rows_of(dataset):
    return [row[:length].tolist() for row, length in zip(dataset.tokens, dataset.row_lengths, strict=True)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_clone_of_a_hub_data_set(clone, config, streaming):
    assert rows_of(prepare_tokens(config(clone, streaming=streaming))) == AB_CDE


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_of_a_clone(clone, config, streaming):
    assert rows_of(prepare_tokens(config(clone, split="held", streaming=streaming))) == [[27, 0]]


@pytest.mark.parametrize("streaming", [False, True])
def test_token_ids_of_a_clone(clone, config, streaming):
    for name, ids in [("some/0", [[5, 6, 7, 8, 9]]), ("some/1", [[1]]), ("other", [[2]])]:
        pq.write_table(pa.table({"ids": ids}), clone / f"{name}.parquet")
    dataset = prepare_tokens(config(clone, column="ids", tokenizer=None, streaming=streaming))
    assert rows_of(dataset) == [[5, 6, 7, 8], [9], [1]]


def test_a_changed_clone_has_another_fingerprint(clone, config):
    before = prepare_tokens(config(clone)).fingerprint
    pq.write_table(pa.table({"n": [1], "text": ["x"]}), clone / "some" / "0.parquet")
    assert prepare_tokens(config(clone)).fingerprint != before


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_split_is_one_sentence(clone, config, streaming):
    with pytest.raises(SpdToolsError, match=r"clone could not be read: .*nothing.*\.$") as caught:
        prepare_tokens(config(clone, split="nothing", streaming=streaming))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_column_is_named(clone, config, streaming):
    with pytest.raises(SpdToolsError, match=r"clone has no column 'story'; its columns are 'n', 'text'"):
        prepare_tokens(config(clone, column="story", streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_null_is_named_by_its_row(clone, config, streaming):
    pq.write_table(pa.table({"n": [1, 2], "text": ["a", None]}), clone / "some" / "1.parquet")
    with pytest.raises(SpdToolsError, match="is null"):
        prepare_tokens(config(clone, streaming=streaming))


def test_a_torn_file_of_a_clone_is_one_sentence(clone, config):
    (clone / "some" / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(SpdToolsError, match=r"clone could not be read: .*[Pp]arquet"):
        prepare_tokens(config(clone))


def test_a_lost_connection_is_one_sentence(clone, config, monkeypatch):
    def lost(self):
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from ConnectionError("reset")

    monkeypatch.setattr(datasets.DatasetBuilder, "download_and_prepare", lost)
    with pytest.raises(SpdToolsError, match="clone is not on this machine and the hub cannot be reached"):
        prepare_tokens(config(clone))


def test_an_empty_split_does_not_spoil_the_others(tmp_path, config):
    empty = datasets.Dataset.from_dict({"text": []}, features=datasets.Features({"text": datasets.Value("string")}))
    splits = {"train": datasets.Dataset.from_dict({"text": ["a b", "c d e"]}), "test": empty}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert rows_of(prepare_tokens(config(tmp_path / "saved"))) == AB_CDE


@pytest.mark.parametrize("content", ["", "[]", '{"splits": 3}'])
def test_a_damaged_saved_data_set_is_named(tmp_path, config, content):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text(content)
    with pytest.raises(SpdToolsError, match=r"dataset_dict\.json of .*saved is damaged"):
        prepare_tokens(config(tmp_path / "saved"))


def test_a_hub_name_is_read_by_datasets(hub, config):
    dataset = prepare_tokens(config("some/set"))
    assert (rows_of(dataset), dataset.source) == (AB_CDE, "some/set")


def test_a_hub_name_with_its_configuration(hub, config):
    assert prepare_tokens(config("some/set:default")).source == "some/set:default"


def test_an_unknown_configuration_is_one_sentence(hub, config):
    with pytest.raises(SpdToolsError, match=r"Data set some/set:de could not be read: .*'de'.*"):
        prepare_tokens(config("some/set:de"))


def test_another_revision_has_another_fingerprint(hub, config):
    before = prepare_tokens(config("some/set")).fingerprint
    hub.revision = "r2"
    assert prepare_tokens(config("some/set")).fingerprint != before


def test_streaming_reads_as_many_rows_as_are_asked_for(hub, config):
    assert rows_of(prepare_tokens(config("some/set", streaming=True, max_rows=1))) == AB_CDE[:1]


def test_without_streaming_everything_is_tokenised_whatever_max_rows_is(hub, config):
    few = prepare_tokens(config("some/set", max_rows=1))
    assert rows_of(few) == AB_CDE
    assert prepare_tokens(config("some/set", max_rows=2)).fingerprint == few.fingerprint


def test_without_a_way_to_the_hub_the_earlier_token_file_is_used(hub, config, caplog):
    before = prepare_tokens(config("some/set", streaming=True, max_rows=2))
    prepare_tokens(config("some/set", streaming=True, max_rows=1))
    hub.reachable = False
    with caplog.at_level(logging.WARNING):
        assert prepare_tokens(config("some/set", streaming=True, max_rows=2)).fingerprint == before.fingerprint
    assert before.fingerprint in caplog.text


def test_without_a_way_to_the_hub_another_token_file_does_not_do(hub, config):
    prepare_tokens(config("some/set"))
    hub.reachable = False
    with pytest.raises(SpdToolsError, match="some/set is not on this machine and the hub cannot be reached"):
        prepare_tokens(config("some/set", seq_len=3))


def test_a_name_that_the_hub_does_not_know_is_one_sentence(config, monkeypatch):
    def load_dataset_builder(name, config=None):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist\x1b[31m\nand more.")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    with pytest.raises(
        SpdToolsError, match=r"Data set no/such could not be read: Dataset 'no/such' doesn't exist"
    ) as e:
        prepare_tokens(config("no/such"))
    assert str(e.value).isprintable()


def test_a_missing_package_is_one_sentence(config, monkeypatch):
    real = builtins.__import__

    def without_datasets(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(SpdToolsError, match=r"need the datasets package: pip install 'spd-tools\[hub\]'"):
        prepare_tokens(config("some/set"))


def test_a_saved_data_set(tmp_path, config):
    datasets.Dataset.from_dict({"text": ["a b", "c d e"]}).save_to_disk(tmp_path / "saved", num_shards=2)
    assert rows_of(prepare_tokens(config(tmp_path / "saved"))) == AB_CDE


def test_a_saved_selection_keeps_its_order(tmp_path, config):
    datasets.Dataset.from_dict({"text": ["c d e", "z", "a b"]}).select([2, 0]).save_to_disk(tmp_path / "saved")
    assert rows_of(prepare_tokens(config(tmp_path / "saved"))) == AB_CDE


@pytest.mark.parametrize(("split", "rows"), [("train", [[2, 0]]), ("test", [[3, 0]])])
def test_a_split_of_a_saved_data_set(tmp_path, config, split, rows):
    splits = {"train": datasets.Dataset.from_dict({"text": ["a"]}), "test": datasets.Dataset.from_dict({"text": ["b"]})}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert rows_of(prepare_tokens(config(tmp_path / "saved", split=split))) == rows


def test_a_split_that_was_not_saved_is_named(tmp_path, config):
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "saved")
    with pytest.raises(SpdToolsError, match="has no split 'train'; it has 'test'"):
        prepare_tokens(config(tmp_path / "saved"))


def test_a_single_saved_data_set_has_no_splits(tmp_path, config):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(SpdToolsError, match="holds a single data set without splits"):
        prepare_tokens(config(tmp_path / "saved", split="test"))


def test_an_empty_saved_data_set_is_named(tmp_path, config):
    empty = datasets.Dataset.from_dict({"text": []}, features=datasets.Features({"text": datasets.Value("string")}))
    empty.save_to_disk(tmp_path / "saved")
    with pytest.raises(SpdToolsError, match="saved holds no documents"):
        prepare_tokens(config(tmp_path / "saved"))
    assert list_token_caches() == []
