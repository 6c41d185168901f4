# syntax=docker/dockerfile:1
# A base image by digest makes a build repeatable: --build-arg PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/luxx
# Everything by hash, and as a wheel: nothing is compiled, and nothing else is run.
COPY requirements/server.txt requirements/build.txt requirements/
RUN /opt/luxx/bin/python -m pip install --require-hashes --only-binary=:all: -r requirements/server.txt \
    && python -m venv /opt/build \
    && /opt/build/bin/python -m pip install --require-hashes --only-binary=:all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src src
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/luxx/bin/python -m pip install --no-deps --no-index /wheels/*.whl \
    && /opt/luxx/bin/python -m pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 luxx \
    && useradd --uid 10001 --gid luxx --no-create-home --home-dir /data --shell /usr/sbin/nologin luxx \
    && install --directory --owner=luxx --group=luxx --mode=0700 /data
COPY --from=build /opt/luxx /opt/luxx
# The root file system may be read-only: only /data is written to, and only without Postgres.
ENV PATH=/opt/luxx/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LUXX_DATA_DIR=/data \
    LUXX_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["luxx"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
