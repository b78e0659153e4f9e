"""From a folder or checkpoint to an SpdDecomposition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from spd_tools.decompositions.base import TrainingData
from spd_tools.decompositions.spd.ci_functions import CiFunction, GlobalCi, LayerwiseCi, SharedGlobalMlp
from spd_tools.decompositions.spd.components import Components, locate
from spd_tools.decompositions.spd.config import CiConfig, SpdConfig, read_config
from spd_tools.decompositions.spd.decomposition import SpdDecomposition
from spd_tools.decompositions.spd.files import CONFIG_NAME, TARGET_CONFIG_NAME, find_run
from spd_tools.decompositions.spd.state_dict import dashed, fingerprint, fit, part, read_checkpoint
from spd_tools.decompositions.spd.tokenizer import TokenizerSource, find_tokenizer
from spd_tools.decompositions.spd.toys import ToyDecomposition
from spd_tools.decompositions.spd.transformer_ci import ReverseResidual, SharedGlobalTransformer
from spd_tools.decompositions.spd.wandb_runs import WandbRun, fetch_target
from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import IN_REPO, Target, build_in_repo_target
from spd_tools.targets.toys import build_toy_target
from spd_tools.targets.transformers_targets import build_transformers_target
from spd_tools.tokens.stories import names_stories


def load_spd_run(path: Path, *, wandb_run: WandbRun | None = None, name: str | None = None) -> SpdDecomposition:
    """Load an SPD run.

    Args:
        path: Folder or checkpoint.
        wandb_run: Where the folder was downloaded from, if it was.
        name: What the run is known by, where that is not its folder.

    Raises:
        SpdToolsError: when something is missing, torn or does not fit together.
    """
    files = find_run(path)
    config = read_config(files.config)
    target, target_dir = build_target(config, files.folder)
    components = locate(target.module, config.module_info, config.identity_module_info)
    ci_function = build_ci_function(config.ci_config, components)
    fill(files.checkpoint, target, components, ci_function)

    digest = fingerprint(
        {
            "format": "spd",
            "architecture": target.architecture,
            "target": target.config,
            "output": config.pretrained_model_output_attr,
            "layers": [[name, layer.n_components] for name, layer in components.items()],
            "ci": config.ci_config.model_dump(),
            "sigmoid_type": config.sigmoid_type,
        },
        [
            ("target_model", target.module),
            *((f"_components.{dashed(name)}", layer) for name, layer in components.items()),
            ("ci_fn", ci_function),
        ],
    )
    if wandb_run is None:
        run_id, reference = name or f"{files.folder.name or 'run'}-{digest[:8]}", name or str(path.resolve())
    else:
        run_id, reference = wandb_run.name, str(wandb_run)
    tokenizer = find_tokenizer(config.tokenizer_name, files.folder, target_dir)
    max_seq_len = config.task_config.max_seq_len or target.context
    if max_seq_len is None and not config.is_toy:
        raise SpdToolsError(f"{files.config} lacks task_config.max_seq_len and the target sets no limit; add it.")
    kind = ToyDecomposition if config.is_toy else SpdDecomposition
    return kind(
        run_id=run_id,
        fingerprint=digest,
        reference=reference,
        target=target,
        output_attr=config.pretrained_model_output_attr,
        components=components,
        ci_function=ci_function,
        sigmoid_type=config.sigmoid_type,
        max_seq_len=max_seq_len,
        training_data=None if max_seq_len is None else _training_data(config, max_seq_len, tokenizer),
        tokenizer_source=TokenizerSource(tokenizer, run_id),
    )


def build_target(config: SpdConfig, run_dir: Path) -> tuple[Target, Path | None]:
    """The target with random weights, and its own run's folder where it has one.

    Raises:
        SpdToolsError: when it is not named, not found or of an unknown class.
    """
    name = config.pretrained_model_name or config.pretrained_model_path
    if not name:
        raise SpdToolsError(f"{run_dir / CONFIG_NAME} names no target: it lacks pretrained_model_name; add it.")
    if config.is_transformers:
        local = next((base / name for base in (run_dir, Path.cwd()) if (base / name).is_dir()), None)
        return build_transformers_target(config.class_name, local or name), local
    if config.is_toy:
        folder = _target_folder(name, run_dir)
        return build_toy_target(config.class_name, folder / TARGET_CONFIG_NAME), folder
    if config.class_name not in IN_REPO:
        raise SpdToolsError(
            f"Target class {config.pretrained_model_class} is not known; what can be read is transformers.*, "
            f"{', '.join(IN_REPO)}, TMS and ResidualMLP."
        )
    folder = _target_folder(name, run_dir)
    return build_in_repo_target(config.class_name, folder / TARGET_CONFIG_NAME), folder


def _target_folder(name: str, run_dir: Path) -> Path:
    """Folder with the target's model_config.yaml: of its W&B run, or at or above the path that names its checkpoint."""
    if wandb_run := WandbRun.parse(name):
        return fetch_target(wandb_run)
    for base in (run_dir, Path.cwd()):
        path = base / Path(name).expanduser()
        for folder in (path, path.parent, path.parent.parent):
            if (folder / TARGET_CONFIG_NAME).is_file():
                return folder.resolve()
    raise SpdToolsError(
        f"The target {name} of run {run_dir} was not found: there is no {TARGET_CONFIG_NAME} in its folder, beside the "
        "run or below the current folder; copy the target's run there."
    )


def build_ci_function(config: CiConfig, components: Mapping[str, Components]) -> CiFunction:
    """The causal-importance function, with parameters still to come."""
    hidden_dims = config.hidden_dims or []
    if config.mode == "layerwise":
        return LayerwiseCi(components, config.fn_type, hidden_dims)
    if config.fn_type == "global_shared_mlp":
        return GlobalCi(components, SharedGlobalMlp(components, hidden_dims))
    if config.fn_type == "global_shared_transformer":
        assert config.simple_transformer_ci_cfg is not None
        return GlobalCi(components, SharedGlobalTransformer(components, config.simple_transformer_ci_cfg))
    return GlobalCi(components, ReverseResidual(components, config))


def fill(checkpoint: Path, target: Target, components: Mapping[str, Components], ci_function: CiFunction) -> None:
    """Put a checkpoint's values into the modules; every key must be used.

    Raises:
        SpdToolsError: when the checkpoint cannot be read or does not fit.
    """
    state = read_checkpoint(checkpoint)
    layer_of_key = {dashed(name): name for name in components}
    for key in state:
        head, _, rest = key.partition(".")
        layer_key = rest.partition(".")[0]
        if head not in ("target_model", "_components", "ci_fn"):
            raise SpdToolsError(f"Checkpoint {checkpoint} has the unexpected key {key}: it is no SPD checkpoint.")
        if head == "_components" and layer_key not in layer_of_key:
            raise SpdToolsError(
                f"Checkpoint {checkpoint} does not fit its final_config.yaml: it has components of {layer_key}, which "
                "module_info does not name; put together the files of one and the same run."
            )
    fit(target.module, part(state, "target_model."), prefix="target_model.", path=checkpoint)
    for name, layer in components.items():
        prefix = f"_components.{dashed(name)}."
        own = part(state, prefix)
        fit(layer, own, prefix=prefix, path=checkpoint)
        layer.refresh()
        _check_bias(layer.bias, own.get("bias"), f"{prefix}bias", checkpoint)
    fit(ci_function, part(state, "ci_fn."), prefix="ci_fn.", path=checkpoint)


def _check_bias(ours: Tensor | None, theirs: Tensor | None, key: str, checkpoint: Path) -> None:
    """Components carry a copy of the target's frozen bias."""
    if theirs is None or (ours is not None and ours.shape == theirs.shape and torch.allclose(ours, theirs.float())):
        return
    raise SpdToolsError(
        f"Checkpoint {checkpoint} does not fit its target: {key} is not the bias of the target's module; "
        "put together the files of one and the same run."
    )


def _training_data(config: SpdConfig, seq_len: int, tokenizer: str | None) -> TrainingData | None:
    task = config.task_config
    if task.dataset_name is None:
        return None
    return TrainingData(
        dataset=task.dataset_name,
        split=task.train_data_split,
        column=task.column_name,
        seq_len=seq_len,
        # Stories bring their own.
        tokenizer=None if task.is_tokenized or names_stories(task.dataset_name) else tokenizer,
        is_tokenized=task.is_tokenized,
        streaming=task.streaming,
    )
