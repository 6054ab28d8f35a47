# One image for the web app and for Dagster's web server, daemon and runs: compose.yaml gives each its command.
FROM python:3.11.14-slim-bookworm

# Where else pip looks: an index with a CPU build of torch makes the image some gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL=

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

WORKDIR /app

# What is installed changes seldom, so it has a layer of its own: the line of `make install`, without the tests' tools.
COPY pyproject.toml constraints.txt README.md ./
COPY dermatome/__init__.py dermatome/__init__.py
RUN python -m pip install --constraint constraints.txt --editable '.[platform,postgres,openvino,web]'

COPY . .

# Not root, and the code is not its own: it writes to /data, its home and /tmp.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin dermatome \
    && install --directory --owner=dermatome --group=dermatome /data /home/dermatome/dagster \
    && ln -s /app/dagster.postgres.yaml /home/dermatome/dagster/dagster.yaml
USER 10001:10001

ENV DERMATOME_DATA=/data \
    DERMATOME_DAGSTER_STORAGE=/data/dagster \
    DAGSTER_HOME=/home/dermatome/dagster \
    DAGSTER_DISABLE_TELEMETRY=yes
VOLUME /data
EXPOSE 7860 3000

HEALTHCHECK --interval=30s --timeout=10s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/healthz', timeout=8)"]
CMD ["dermatome", "web", "--data", "/data", "--host", "0.0.0.0", "--port", "7860"]
