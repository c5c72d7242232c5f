"""The groups in which `--help` shows the settings of a run."""

_GROUPS = {
    "run": "workdir",
    "model": "model cut bottleneck first_filters precision init init_part",
    "data": "dataset data_dir image_size train_examples test_examples augment",
    "clients": "clients topology partition local_epochs",
    "gate": "gate",
    "codec": "codec grad_codec lossless",
    "store": "refresh_statistics views replay_shift replay_mirror replay_cutout mixup "
    "replay_always",
    "defence": "nopeek noise",
    "optimiser": "epochs batch_size learning_rate momentum weight_decay seed",
    "system": "device compile_cache chunk mesh",
}

RUN_GROUPS = {group: tuple(names.split()) for group, names in _GROUPS.items()}
"""By group, the settings in it; each setting of a run is in one."""
