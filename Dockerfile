# The image for `launch.k8s.image`: Ray, medray and its dependencies, in the versions that medray is tested with.
#
#   docker build -t registry.example.org/medray:0.1.0 .
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t registry.example.org/medray:0.1.0-cpu .
#
# torch from PyPI includes CUDA; the node must have the driver and NVIDIA's container toolkit. KubeRay starts its commands
# with bash and python. The image has no compiler, so train.offload uses torch's Adam on the CPU.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
COPY requirements/lock.txt requirements/lock.txt
RUN python -m venv /opt/medray \
    && /opt/medray/bin/pip install --no-cache-dir "$(grep '^pip==' requirements/lock.txt)" \
    && /opt/medray/bin/pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" "$(grep '^torch==' requirements/lock.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY medray medray
COPY configs configs
COPY slurm slurm
COPY k8s k8s
# The lock decides every version, except that of torch: keep the one that is installed.
RUN grep -v '^torch==' requirements/lock.txt > constraints.txt \
    && /opt/medray/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >> constraints.txt \
    && /opt/medray/bin/pip wheel --no-cache-dir --no-deps --build-constraint requirements/lock.txt --wheel-dir dist . \
    && /opt/medray/bin/pip install --no-cache-dir --constraint constraints.txt --build-constraint requirements/lock.txt dist/*.whl

FROM python:${PYTHON}
# The pods of k8s/ run as uid 1000.
RUN groupadd --gid 1000 medray && useradd --uid 1000 --gid 1000 --create-home medray
COPY --from=build /opt/medray /opt/medray
ENV PATH=/opt/medray/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /tmp
CMD ["medray", "--help"]
