"""Made-up harvests: random input, counted by the reference and written by plain pyarrow as the schema says."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference import MASS_UNIT, Input, Reference, RefExample, harvest
from tokenizers import Tokenizer, models, pre_tokenizers

from spd_tools.store import schema
from spd_tools.store.harvest import Harvest

KINDS = ["causal_importance", "component_activation"]
LAYERS = [("h.0.attn.q_proj", 4), ("h.0.mlp.c_fc", 6), ("h.1.mlp.c_fc", 5)]


def random_input(
    seed: int = 0,
    *,
    rows: int = 8,
    seq: int = 12,
    n_components: int = 15,
    vocab: int = 11,
    excluded: bool = True,
    **choices: object,
) -> Input:
    """Components of all densities: the last never fires, the one before it always; activations tie now and then."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (rows, seq)).astype(np.uint16)
    rates = np.concatenate([rng.uniform(0.05, 0.9, n_components - 2), [1.0, 0.0]])
    fires = rng.random((rows, seq, n_components)) < rates
    importance = np.where(fires, np.minimum(rng.uniform(0.1, 2, fires.shape), 1), 0).astype(np.float32)
    activation = np.round(rng.normal(0, 2, fires.shape), 1).astype(np.float32)
    logits = rng.normal(0, 3, (rows, seq, vocab)).astype(np.float32)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    arguments = {
        "tokens": tokens,
        "lengths": rng.integers(seq // 2, seq + 1, rows).tolist(),
        "excluded": rng.random((rows, seq)) < 0.1 if excluded else None,
        "activations": dict(zip(KINDS, (importance, activation), strict=True)),
        "probabilities": (powers / powers.sum(-1, keepdims=True)).astype(np.float32),
        "gating": KINDS[0],
        "ranking": KINDS[1],
        "seed": seed,
        "window": 2,
        "n_uniform": 7,
        "n_top": 5,
        "p_min": 0.02,
    }
    return Input(**{**arguments, **choices})  # pyright: ignore[reportArgumentType]


def write_reference_store(
    folder: Path,
    given: Input,
    counted: Reference | None = None,
    *,
    layers: list[tuple[str, int]] = LAYERS,
    run_id: str = "made-up",
    harvest_id: str = "abc123",
    rows_per_batch: int = 4,
    tokenizer_json: str | None = None,
) -> Reference:
    """Write a finished harvest; returns its counts."""
    counted = counted or harvest(given)
    assert sum(n for _, n in layers) == given.n_components
    (folder / "firings").mkdir(parents=True)
    _write_rows(folder, given, counted)
    kinds = list(given.activations)
    tables = {
        "examples.arrow": (schema.examples_schema(kinds), _examples(counted)),
        "token_stats.arrow": (schema.TOKEN_STATS_SCHEMA, _token_stats(counted)),
        "correlations.arrow": (schema.CORRELATIONS_SCHEMA, _correlations(counted)),
        "firings/log.arrow": (schema.firings_schema(kinds), _log(given, counted)),
        "vocabulary.arrow": (schema.VOCABULARY_SCHEMA, _vocabulary(given, counted)),
    }
    for name, (table_schema, rows) in tables.items():
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_file(file, table_schema) as writer:
            for start in range(0, len(rows), rows_per_batch):
                writer.write_batch(pa.RecordBatch.from_pylist(rows[start : start + rows_per_batch], table_schema))
    components = pa.Table.from_pylist(_components(given, counted, layers), schema.components_schema(kinds))
    pq.write_table(components, folder / "components.parquet", row_group_size=rows_per_batch)
    if tokenizer_json is not None:
        (folder / "tokenizer.json").write_text(tokenizer_json)
    manifest = _manifest(given, counted, layers, run_id, harvest_id, _file_infos(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump(mode="json")))
    return counted


def refresh_manifest(folder: Path) -> None:
    """Make sizes and checksums fit the files again (for files made foreign on purpose)."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    path.unlink()
    document["files"] = {name: info.model_dump() for name, info in _file_infos(folder).items()}
    path.write_text(json.dumps(document))


def _write_rows(folder: Path, given: Input, counted: Reference) -> None:
    np.save(folder / "tokens.npy", given.tokens)
    np.save(folder / "row_lengths.npy", np.array(given.lengths, np.int32))
    np.save(folder / "row_ids.npy", 1000 + np.arange(len(given.tokens), dtype=np.int64)[::-1])
    np.save(folder / "firings" / "rows.npy", np.array(counted.logged_rows, np.int64))
    if given.excluded is not None:
        np.save(folder / "excluded.npy", given.excluded)


def _example(example: RefExample) -> dict:
    return {"row": example.row, "position": example.position, "start": example.start, **example.activations}


def _examples(counted: Reference) -> list[dict]:
    return [
        {"uniform": [_example(example) for example in uniform], "top": [_example(example) for example in top]}
        for uniform, top in zip(counted.uniform, counted.top, strict=True)
    ]


def _token_stats(counted: Reference) -> list[dict]:
    return [
        {
            "input_token": sorted(inputs),
            "input_count": [inputs[v] for v in sorted(inputs)],
            "output_token": sorted(outputs),
            "output_mass": [outputs[v] / MASS_UNIT for v in sorted(outputs)],
        }
        for inputs, outputs in zip(counted.input_counts, counted.output_units, strict=True)
    ]


def _vocabulary(given: Input, counted: Reference) -> list[dict]:
    return [
        {
            "input_count": counted.vocabulary_input.get(v, 0),
            "output_mass": counted.vocabulary_output_units.get(v, 0) / MASS_UNIT,
        }
        for v in range(given.vocab_size)
    ]


def _correlations(counted: Reference) -> list[dict]:
    components = range(len(counted.n))
    partners = [[j for j in components if j != i and counted.n_ij(i, j)] for i in components]
    return [{"partner": partners[i], "count": [counted.n_ij(i, j) for j in partners[i]]} for i in components]


def _log(given: Input, counted: Reference) -> list[dict]:
    seq = given.tokens.shape[1]
    return [
        {
            "token": [row * seq + position for row, position in firings],
            **{kind: [float(dense[row, p, c]) for row, p in firings] for kind, dense in given.activations.items()},
        }
        for c, firings in enumerate(counted.log)
    ]


def _components(given: Input, counted: Reference, layers: list[tuple[str, int]]) -> list[dict]:
    names = [name for name, n in layers for _ in range(n)]
    ranking = given.activations[given.ranking]
    rows = []
    for c, layer in enumerate(names):
        logged = [abs(float(ranking[row, position, c])) for row, position in counted.log[c]]
        bins = sorted(counted.histogram[c])
        row = {
            "index": c,
            "layer": layer,
            "firing_count": counted.n[c],
            "dropped_output_mass": counted.dropped_units[c] / MASS_UNIT,
            "histogram_bin": bins,
            "histogram_count": [counted.histogram[c][bin_] for bin_ in bins],
            "logged_firings": len(logged),
            "effective_max": float(np.percentile(logged, 99.5)) if logged else None,
        }
        for kind in given.activations:
            row[f"sum/{kind}"] = counted.sums[kind][c]
            row[f"firing_sum/{kind}"] = counted.firing_sums[kind][c]
            row[f"abs_firing_sum/{kind}"] = counted.abs_firing_sums[kind][c]
        rows.append(row)
    return rows


def _file_infos(folder: Path) -> dict[str, schema.FileInfo]:
    return {
        path.relative_to(folder).as_posix(): schema.FileInfo(
            bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def _manifest(
    given: Input,
    counted: Reference,
    layers: list[tuple[str, int]],
    run_id: str,
    harvest_id: str,
    files: dict[str, schema.FileInfo],
) -> schema.Manifest:
    rows, seq = given.tokens.shape
    return schema.Manifest(
        harvest_id=harvest_id,
        decomposition=schema.DecompositionInfo(
            run_id=run_id,
            reference=run_id,
            fingerprint="d" * 64,
            layers=layers,
            vocab_size=given.vocab_size,
            gating_kind=given.gating,
            ranking_kind=given.ranking,
            kinds=list(given.activations),
        ),
        data=schema.DataInfo(source="random", fingerprint="e" * 64, tokenizer=None),
        config=schema.HarvestConfig(
            n_batches=1,
            batch_size=rows,
            seq_len=seq,
            threshold=given.threshold,
            p_min=given.p_min,
            n_uniform=given.n_uniform,
            n_top=given.n_top,
            window=given.window,
            log_share=given.log_share,
            seed=given.seed,
        ),
        counts=schema.Counts(
            n_rows=rows,
            n_tokens=counted.n_tokens,
            n_firings=counted.n_firings,
            n_pairs=len(counted.pairs),
            n_logged_rows=len(counted.logged_rows),
            n_logged_tokens=sum(given.counts(row, p) for row in counted.logged_rows for p in range(seq)),
        ),
        files=files,
    )


@dataclass(frozen=True)
class Stored:
    """A made-up harvest on disk, and what must stand in it."""

    folder: Path
    given: Input
    counted: Reference

    @property
    def harvest(self) -> Harvest:
        return Harvest.open(self.folder)


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Half of the rows logged, several record batches. Read only."""
    given = random_input(3, rows=20, seq=14, log_share=0.5)
    folder = tmp_path_factory.mktemp("stored") / "harvest" / "made-up" / "abc123"
    counted = write_reference_store(folder, given, tokenizer_json=word_tokenizer(given.vocab_size).to_str())
    return Stored(folder, given, counted)


@pytest.fixture
def store_copy(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a SPD_OUT_DIR of the test's own, to be spoilt."""
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    return Path(shutil.copytree(stored.folder, tmp_path / "harvest" / "made-up" / "abc123"))


def word_tokenizer(vocab_size: int) -> Tokenizer:
    """One word per token id: w0, w1, ..."""
    tokenizer = Tokenizer(models.WordLevel({f"w{v}": v for v in range(vocab_size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
