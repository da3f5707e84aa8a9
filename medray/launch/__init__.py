"""Launchers that run a config elsewhere: they fill values of `cluster:` and `launch:` into the files of slurm/ and k8s/."""
