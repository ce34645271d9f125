# The GPU worker: it takes runs from the work pool `gpu` and does them in its own processes.
#
#   docker build --tag bakeoff .
#   docker run --init --stop-timeout 60 --gpus all --env PREFECT_API_URL=http://SERVER:4200/api --volume bakeoff:/var/lib/bakeoff bakeoff
#
# Keys of endpoints and stores come with --env or --env-file; none is in the image.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build

# What the project needs stands in a layer of its own: gigabytes that a change of the code leaves alone.
COPY pyproject.toml requirements.lock requirements-demo.txt ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["demo"], sep="\n")' > requirements.in \
    && pip install --no-cache-dir --constraint requirements.lock --requirement requirements.in \
    && pip install --no-cache-dir --no-deps --requirement requirements-demo.txt

COPY . .
RUN pip install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home bakeoff \
    && install --directory --owner bakeoff --group bakeoff /var/lib/bakeoff /data
COPY --from=build /opt/venv /opt/venv
COPY configs /opt/bakeoff/configs
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BAKEOFF_HOME=/var/lib/bakeoff \
    BAKEOFF_ROOTS=/opt/bakeoff/configs:/data \
    HF_HOME=/var/lib/bakeoff/hub \
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
CMD ["python", "-m", "deployments", "worker", "gpu", "--with-healthcheck"]
