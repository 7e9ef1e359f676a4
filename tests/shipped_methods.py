"""The weighting methods that are for every task: those of a system alone are made from its own folder."""

from pathlib import Path

from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf/weighting"
ALL = sorted(
    file.stem
    for file in CONF.glob("*.yaml")
    if not str(OmegaConf.load(file).get("_target_", "")).startswith("rwkd_lightning.systems.")
)
METHODS = [name for name in ALL if name != "given"]
"""Without the one that needs a column of its own."""
