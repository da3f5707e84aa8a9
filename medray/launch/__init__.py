"""Running a config somewhere else: values of `cluster:` and `launch:` filled into the wrappers of slurm/ and k8s/."""
