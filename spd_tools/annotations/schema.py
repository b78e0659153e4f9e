"""The annotations of one run on disk, version 1: one SQLite file, ``<SPD_OUT_DIR>/annotations/<run_id>.sqlite``.

=================  ================================================================================================
meta               name -> value: ``run_id``, ``fingerprint`` of the decomposition, ``created``
evidence           results of experiments in the order of their arrival (``seq``); ``document`` is the whole result as
                   JSON, the other columns are copies of its fields, so that lists need not parse it;
                   ``removal_kl``: mean KL in nats when the component is removed, where that was measured
evidence_texts     normalised texts that the model was run on for a piece of evidence (see support.normalised)
hypotheses         one row per version; a hypothesis is the rows of one ``id``, and stands as its highest version says
labels             one row per version of a component's label; ``missing``: what kept it from being supported
label_words        full-text index (FTS5) of the newest label of every component; its content is ``labels``
scores             how good a label is, by some method
log                the research log
leases             who is working on which component, until when. The only rows that are ever changed or removed
writes             idempotency key -> what that write made, and a digest of what it was asked to write
=================  ================================================================================================

Rows of evidence, labels, hypotheses, scores and log are only ever added. Lists of strings and ``details`` are JSON.
``created`` is UTC, ISO 8601 with microseconds. Times of leases are seconds since the epoch.

The header's application id is ``APPLICATION_ID``, its user version is ``SCHEMA_VERSION``. A file of 0 bytes is one that
nothing has been written to yet. The journal is a rollback journal, deleted after each transaction (no WAL, no shared
memory), because that is what works on network file systems.
"""

from __future__ import annotations

APPLICATION_ID = 0x53504441
"""In the file's header: "SPDA"."""
SCHEMA_VERSION = 1

STATEMENTS = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE evidence (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, experiment TEXT NOT NULL,
        kind TEXT NOT NULL, harvest_id TEXT NOT NULL, n INTEGER NOT NULL,
        effect_value REAL, effect_low REAL, effect_high REAL, effect_n INTEGER,
        excludes_control INTEGER, p_value REAL, removal_kl REAL, summary TEXT NOT NULL,
        created TEXT NOT NULL, author TEXT NOT NULL, document TEXT NOT NULL)""",
    "CREATE INDEX evidence_of_key ON evidence (key, experiment)",
    "CREATE INDEX removals ON evidence (key, seq, removal_kl, id) WHERE removal_kl IS NOT NULL",
    """CREATE TABLE evidence_texts (
        key TEXT NOT NULL, seq INTEGER NOT NULL REFERENCES evidence (seq), text TEXT NOT NULL)""",
    "CREATE INDEX texts_of_key ON evidence_texts (key, seq)",
    """CREATE TABLE hypotheses (
        id TEXT NOT NULL, version INTEGER NOT NULL, key TEXT NOT NULL, text TEXT NOT NULL, status TEXT NOT NULL,
        confidence REAL NOT NULL, note TEXT, evidence TEXT NOT NULL, created TEXT NOT NULL, author TEXT NOT NULL,
        PRIMARY KEY (id, version)) WITHOUT ROWID""",
    "CREATE INDEX hypotheses_of_key ON hypotheses (key)",
    """CREATE TABLE labels (
        row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, version INTEGER NOT NULL,
        status TEXT NOT NULL, input_view TEXT NOT NULL, output_view TEXT NOT NULL, output_effect TEXT NOT NULL,
        category TEXT NOT NULL, confidence REAL, notes TEXT NOT NULL, ruled_out TEXT NOT NULL, evidence TEXT NOT NULL,
        wants TEXT NOT NULL, missing TEXT NOT NULL, created TEXT NOT NULL, author TEXT NOT NULL)""",
    "CREATE INDEX labels_of_key ON labels (key, version)",
    """CREATE VIRTUAL TABLE label_words USING fts5 (
        input_view, output_view, category, notes, content='labels', content_rowid='row',
        tokenize='porter unicode61')""",
    """CREATE TABLE scores (
        id TEXT PRIMARY KEY, key TEXT NOT NULL, method TEXT NOT NULL, value REAL NOT NULL, low REAL, high REAL,
        n INTEGER, details TEXT NOT NULL, label TEXT, created TEXT NOT NULL, author TEXT NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX scores_of_key ON scores (key)",
    """CREATE TABLE log (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT, text TEXT NOT NULL, created TEXT NOT NULL,
        author TEXT NOT NULL)""",
    "CREATE INDEX log_of_key ON log (key)",
    "CREATE TABLE leases (key TEXT PRIMARY KEY, author TEXT NOT NULL, begins REAL NOT NULL, ends REAL NOT NULL)",
    """CREATE TABLE writes (
        idempotency_key TEXT PRIMARY KEY, operation TEXT NOT NULL, digest TEXT NOT NULL, made TEXT NOT NULL,
        created TEXT NOT NULL) WITHOUT ROWID""",
)
"""The tables, made in one transaction with the header and the rows of ``meta``."""
