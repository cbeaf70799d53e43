# syntax=docker/dockerfile:1
# The operator's image. Build: docker build -t medplum-agent-operator:0.1.0 .
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.txt requirements-dev.txt ./
RUN python3 -m venv /opt/operator && \
    /opt/operator/bin/pip install --require-hashes --only-binary :all: -r requirements.txt
# The build backend comes from the same lock, in an environment of its own that stays behind.
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r requirements-dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator ./operator
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . && \
    /opt/operator/bin/pip install --no-deps dist/*.whl && \
    /opt/operator/bin/pip uninstall --yes pip && \
    find /opt/operator -name __pycache__ -type d -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="medplum-agent-operator" \
      org.opencontainers.image.description="Kubernetes operator for the Medplum Agent" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/operator/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/operator /opt/operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["medplum-agent-operator"]
