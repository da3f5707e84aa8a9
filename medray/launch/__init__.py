"""Launchers, which run a config on a cluster: a Ray job server, SLURM or Kubernetes.

They fill values of `cluster:` and `launch:` into the files of slurm/ and k8s/.
"""
