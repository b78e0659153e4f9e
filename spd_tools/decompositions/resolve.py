"""A reference that people type -> Decomposition."""

from __future__ import annotations

from pathlib import Path

from spd_tools.decompositions.base import Decomposition
from spd_tools.errors import SpdToolsError

DEMO_RUN = Path(__file__).parent.parent / "demo_model"
"""The SPD run that comes with spd-tools: a small language model of stories."""


def load_decomposition(reference: str | Path) -> Decomposition:
    """Load what can be harvested.

    Args:
        reference: Folder or checkpoint of an SPD run, "wandb:ENTITY/PROJECT/RUN_ID" (also ".../runs/RUN_ID"),
            "demo", "planted" or "planted:SEED". A folder of such a name is written "./demo".

    Raises:
        SpdToolsError: when there is no such thing, or it is torn or of a kind that cannot be read.
    """
    text = str(reference)
    name, colon, seed = text.partition(":")
    check_reference(text)
    if name == "planted":
        from spd_tools.decompositions.planted import load_planted

        return load_planted(int(seed) if colon else 0)

    from spd_tools.decompositions.spd.loader import load_spd_run
    from spd_tools.decompositions.spd.wandb_runs import WandbRun, fetch_run

    if text == "demo":
        return load_spd_run(DEMO_RUN, name="demo")
    if run := WandbRun.parse(text):
        return load_spd_run(fetch_run(run), wandb_run=run)
    return load_spd_run(Path(text).expanduser())


def check_reference(text: str) -> None:
    """Refuse what cannot be loaded, without loading or downloading anything.

    Raises:
        SpdToolsError: when there is no such thing, or it is of a kind that cannot be read.
    """
    from spd_tools.decompositions.spd.wandb_runs import WandbRun

    name, colon, seed = text.partition(":")
    if name == "planted" and colon and not (seed.isascii() and seed.isdigit()):
        raise SpdToolsError(f"{text!r} names no planted decomposition: write planted or planted:SEED.")
    if text == "demo" or name == "planted" or WandbRun.parse(text):
        return
    path = Path(text).expanduser()
    if not path.exists():
        raise SpdToolsError(
            f"There is no run {text!r}: name the folder or checkpoint of an SPD run, wandb:ENTITY/PROJECT/RUN_ID, "
            "planted[:SEED] or demo."
        )
    if (format_name := foreign_format(path)) is not None:
        raise SpdToolsError(f"{path} is a dictionary in {format_name} form, which is not supported yet.")


def foreign_format(path: Path) -> str | None:
    """Name of the sparse-dictionary format that a folder (or a file in it) is in; None for others.

    A folder of dictionaries, one subfolder each, counts as one of them.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / "final_config.yaml").is_file():
        return None
    try:
        places = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())] if path.is_dir() else [folder]
        for place in places:
            if found := _format_of(place):
                return found
    except OSError as error:
        raise SpdToolsError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from error
    return None


def _format_of(folder: Path) -> str | None:
    def holds(*names: str) -> bool:
        return all(any(folder.glob(name)) for name in names)

    if holds("cfg.json", "sae_weights.safetensors"):
        return "SAELens"
    if holds("params.npz") or holds("params.safetensors"):
        return "Gemma Scope"
    if holds("cfg.json", "sae.safetensors"):
        return "sparsify"
    if holds("config.yaml", "layer_*.safetensors") or holds("config.yaml", "W_enc_*.safetensors"):
        return "circuit-tracer"
    if holds("ae.pt", "config.json"):
        return "dictionary_learning"
    if holds("final.safetensors"):
        return "Llama Scope"
    return None
