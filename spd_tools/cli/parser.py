"""The parser: one module per group of commands adds its own."""

from __future__ import annotations

from spd_tools.cli import (
    decompose,
    evaluate,
    experiments,
    harvests,
    install_claude,
    interpret,
    jobs,
    labels,
    look,
    machine,
    mcp,
    notebook,
    postprocess,
    pretrain,
    runs,
    train_sweep,
    transfer,
)
from spd_tools.cli.arguments import Parser


def build_parser() -> Parser:
    """The parser of `spd-tools`; every command sets ``handler``."""
    parser = Parser(prog="spd-tools", description="Count, look at and explain the components of neural networks.")
    parser.set_defaults(json=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    at_scale = (interpret, evaluate, postprocess)
    training = (decompose, train_sweep, pretrain)
    others = (runs, jobs, transfer, mcp, install_claude, machine)
    for group in (harvests, look, experiments, labels, notebook, *at_scale, *training, *others):
        group.add_commands(commands)
    return parser
