# A worker: it takes runs from a work pool and does them in its own processes. `gpu` is the default target.
#
#   docker build --target gpu --tag bakeoff:gpu .
#   docker build --target cpu --tag bakeoff:cpu --build-arg TORCH_INDEX=ADDRESS .    # of PyTorch's CPU wheels, as pytorch.org gives it
#   docker run --init --uts host --stop-timeout 60 --gpus all --env PREFECT_API_URL=http://SERVER:4200/api --volume bakeoff:/var/lib/bakeoff bakeoff:gpu
#
# What is installed is pinned with hashes (deployments/image/, `make lock`). Keys of endpoints and stores come with --env-file; none is
# in the image.

FROM python:3.11-slim-bookworm AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
# What the project needs stands in a layer of its own: a change of the code leaves it alone.
COPY deployments/image/common.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement common.lock

FROM packages AS packages-gpu
# torch's wheels for Linux bring CUDA's libraries, so the host needs the driver alone.
COPY deployments/image/cuda.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement cuda.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && pip uninstall --yes hatchling

FROM packages AS packages-cpu
# PyTorch keeps its wheels without CUDA on an index of its own; what comes from it is checked by hash like everything else.
ARG TORCH_INDEX=""
COPY deployments/image/cpu.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement cpu.lock \
    --index-url "${TORCH_INDEX:?give the address of the CPU wheels of PyTorch: --build-arg TORCH_INDEX=ADDRESS}"
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && pip uninstall --yes hatchling

FROM python:3.11-slim-bookworm AS worker
# OpenMP, with which the local LLM is linked; the slim image has none.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1=12.2.* && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home bakeoff \
    && install --directory --owner bakeoff --group bakeoff /var/lib/bakeoff /data
COPY configs /opt/bakeoff/configs
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BAKEOFF_HOME=/var/lib/bakeoff \
    BAKEOFF_ROOTS=/opt/bakeoff/configs:/data \
    HF_HOME=/var/lib/bakeoff/hub \
    PREFECT_HOME=/var/lib/bakeoff/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR=reschedule \
    PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1
WORKDIR /opt/bakeoff
VOLUME /var/lib/bakeoff
USER 10001:10001
# The worker answers as long as it polls the server.
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=5)"]

# Each target ends with an import of what needs libraries of the system: an image that cannot run is not made.
# xllamacpp comes first: torch brings an OpenMP of its own, and would hide that the system has none.
FROM worker AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
RUN python -c "import xllamacpp, torch, flows.bakeoff"
CMD ["python", "-m", "deployments", "worker", "cpu", "--with-healthcheck"]

FROM worker AS gpu
COPY --from=packages-gpu /opt/venv /opt/venv
RUN python -c "import xllamacpp, torch, flows.bakeoff"
CMD ["python", "-m", "deployments", "worker", "gpu", "--with-healthcheck"]
