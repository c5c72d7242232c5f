"""How much of the images a privacy run recovered, by cut."""

from pathlib import Path

from jsplit.analysis.plan_values import Leakage
from jsplit.analysis.privacy_report import kept_file, read_figures
from jsplit.analysis.results import FinishedRun, read_results
from jsplit.errors import InputError
from jsplit.experiment.config import RunConfig
from jsplit.experiment.parts import cut_index
from jsplit.experiment.plan import PlanData


def measured_leakage(path: Path, config: RunConfig, data: PlanData) -> Leakage:
    """What `jsplit privacy` found on the config's model and data, defences apart.

    The highest of all gates, codecs and seeds at a cut counts.

    Args:
        path: a folder with attacked runs below it.
        config: of the plan.
        data: of the plan.

    Raises:
        InputError: if there is none of this model and data.
    """
    runs, _ = read_results(path, partial=True)
    attacked = [run for run in runs if kept_file(run).exists()]
    if not attacked:
        raise InputError(
            f"--privacy {path} has no attacked run below it; jsplit privacy {path} "
            "attacks those that are there"
        )
    found: Leakage = {}
    for run in attacked:
        if _fits(run, config, data):
            key = cut_index(run.config), run.config.bottleneck
            ssim = float(read_figures(run)["last"]["inversion"]["ssim"])
            found[key] = max(ssim, found.get(key, ssim))
    if not found:
        other = attacked[0]
        raise InputError(
            f"--privacy {path} has no attacked run of {config.model} on {data.name} "
            f"with images of {_size(data.image_shape)} and no defence, but of "
            f"{other.config.model} on {other.summary['dataset']} with images of "
            f"{_size(other.summary['image_shape'])}; plan for those, or leave it out"
        )
    return found


def _fits(run: FinishedRun, config: RunConfig, data: PlanData) -> bool:
    return (
        run.config.model == config.model
        and run.summary["dataset"] == data.name
        and tuple(run.summary["image_shape"]) == data.image_shape
        and not (run.config.nopeek or run.config.noise)
    )


def _size(shape: tuple[int, ...] | list[int]) -> str:
    return "x".join(map(str, shape))
