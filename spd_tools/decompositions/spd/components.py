"""The decomposed modules of a target and their components."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.decompositions.spd.config import ModuleInfo
from spd_tools.errors import SpdToolsError
from spd_tools.targets.transformers_targets import is_conv1d

IDENTITY_NAME = "pre_identity"
"""Attribute under which an identity map is inserted before a module."""


class Components(nn.Module):
    """Components of one module: W = sum_c V_c U_c, and what they leave over.

    Shapes: V [d_in, C], U [C, d_out]; for an embedding d_in is the vocabulary and x V is V[token].
    """

    U_norm: Tensor
    scaled_read_vectors: Tensor | None
    bias: Tensor | None

    def __init__(self, module: nn.Module, n_components: int, d_identity: int | None = None) -> None:
        """Describe a Linear, Conv1D, Embedding or (``d_identity`` wide) Identity; V and U come from a checkpoint."""
        super().__init__()
        d_in, d_out = _dimensions(module, d_identity)
        self.V = nn.Parameter(torch.zeros(d_in, n_components))
        self.U = nn.Parameter(torch.zeros(n_components, d_out))
        self.is_embedding = isinstance(module, nn.Embedding)
        self._stored_transposed = is_conv1d(module)
        # In a tuple the module is none of our submodules: its weights are the target's.
        self._module = (module,)
        bias = getattr(module, "bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.register_buffer("U_norm", torch.zeros(n_components), persistent=False)
        self.register_buffer("scaled_read_vectors", None, persistent=False)

    @property
    def module(self) -> nn.Module:
        """The decomposed module."""
        return self._module[0]

    @property
    def n_components(self) -> int:
        """C."""
        return self.V.shape[1]

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute what follows from the weights; to be called when they have been loaded."""
        self.U_norm = torch.linalg.vector_norm(self.U, dim=1)
        # [C, d_in]: a reported component activation is x . scaled_read_vectors_c. Token ids are looked up in V instead.
        self.scaled_read_vectors = None if self.is_embedding else (self.V * self.U_norm).T.contiguous()
        bias = getattr(self.module, "bias", None)
        self.bias = None if bias is None else bias.detach()

    def inner(self, x: Tensor) -> Tensor:
        """x V [..., C]: component activations before the scale ||U_c||. x: [..., d_in], or token ids [...]."""
        return F.embedding(x, self.V) if self.is_embedding else x @ self.V

    def target_map(self, x: Tensor) -> Tensor:
        """What the target's weight alone makes of x: [..., d_out], without bias."""
        module = self.module
        if isinstance(module, nn.Identity):
            return x
        weight = module.weight
        assert isinstance(weight, Tensor)
        if self.is_embedding:
            return F.embedding(x, weight)
        return x @ weight if self._stored_transposed else F.linear(x, weight)

    def changed_output(self, x: Tensor, inner: Tensor, changed: Tensor, delta: float) -> Tensor:
        """Output with component activations replaced: changed U + bias + delta * x (W - sum_c W_c)^T.

        x (W - sum_c W_c)^T is x W^T - inner U, so no weight difference is ever formed.

        Args:
            x: [..., d_in] or token ids [...].
            inner: x V [..., C].
            changed: What takes its place [..., C].
            delta: Share of the weights that no component covers.
        """
        out = changed @ self.U if delta == 0 else (changed - delta * inner) @ self.U + delta * self.target_map(x)
        return out if self.bias is None else out + self.bias

    def weight_delta(self) -> Tensor:
        """W - sum_c W_c: [d_out, d_in], for an embedding [vocab, d_out] as its weight."""
        module = self.module
        covered = self.V @ self.U
        if isinstance(module, nn.Identity):
            return torch.eye(covered.shape[0], device=covered.device) - covered.T
        weight = module.weight
        assert isinstance(weight, Tensor)
        if self.is_embedding:
            return weight - covered
        return (weight.T if self._stored_transposed else weight) - covered.T


def _dimensions(module: nn.Module, d_identity: int | None) -> tuple[int, int]:
    if isinstance(module, nn.Identity):
        assert d_identity is not None
        return d_identity, d_identity
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (rows, columns) if isinstance(module, nn.Embedding) or is_conv1d(module) else (columns, rows)


def locate(
    target: nn.Module, module_info: Sequence[ModuleInfo], identity_info: Sequence[ModuleInfo] | None
) -> dict[str, Components]:
    """Components of all decomposed modules, in layer order; inserts the identity maps into the target.

    Layer order: pattern by pattern, within a pattern in named_modules() order, then the identity maps.

    Raises:
        SpdToolsError: when a pattern matches nothing or something that cannot be decomposed, or two match one module.
    """
    found: dict[str, Components] = {}
    # Both lists are matched before any identity is inserted: patterns name real modules only.
    matched = match_patterns(target, module_info)
    matched_identities = match_patterns(target, identity_info or ())
    for path, n_components in matched.items():
        module = target.get_submodule(path)
        if not isinstance(module, nn.Linear | nn.Embedding) and not is_conv1d(module):
            raise SpdToolsError(
                f"Module {path} is a {type(module).__name__}, which has no components: "
                "module_info may name Linear, Conv1D and Embedding modules only."
            )
        found[path] = Components(module, n_components)
    for path, n_components in matched_identities.items():
        module = target.get_submodule(path)
        if not isinstance(module, nn.Linear) and not is_conv1d(module):
            raise SpdToolsError(
                f"Module {path} is a {type(module).__name__}: "
                "identity_module_info may name Linear and Conv1D modules only."
            )
        identity = _insert_identity(module)
        found[f"{path}.{IDENTITY_NAME}"] = Components(identity, n_components, _dimensions(module, None)[0])
    return found


def match_patterns(target: nn.Module, infos: Sequence[ModuleInfo]) -> dict[str, int]:
    """Module path -> C in layer order.

    Raises:
        SpdToolsError: when a pattern matches nothing or two match one module.
    """
    pattern_of: dict[str, str] = {}
    matched: dict[str, int] = {}
    names = [name for name, _ in target.named_modules() if name]
    for info in infos:
        hits = [name for name in names if fnmatchcase(name, info.module_pattern)]
        if not hits:
            raise SpdToolsError(
                f"Pattern {info.module_pattern!r} of final_config.yaml matches no module of the target; "
                f"it has modules such as {', '.join(names[-3:])}."
            )
        for name in hits:
            if name in pattern_of:
                raise SpdToolsError(
                    f"Module {name} matches two patterns of final_config.yaml, {pattern_of[name]!r} and "
                    f"{info.module_pattern!r}; let one of them match it."
                )
            pattern_of[name] = info.module_pattern
            matched[name] = info.C
    return matched


def _insert_identity(module: nn.Module) -> nn.Identity:
    identity = nn.Identity()
    module.add_module(IDENTITY_NAME, identity)
    module.register_forward_pre_hook(lambda _module, args: (identity(args[0]), *args[1:]))
    return identity
