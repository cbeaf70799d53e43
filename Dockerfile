# syntax=docker/dockerfile:1
# The operator's image. Build: docker build -t medplum-agent-operator:dev .
# Both stages use the same base: any image with Python 3.11 or newer, its venv module and awk. Use 3.13 or newer only if you know your
# cluster's CA: these versions reject a CA without key identifiers, which old clusters have (kubernetes-client/python#2394).
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /build
COPY requirements.txt requirements-dev.txt ./
# The program's environment has neither pip nor the build backend. The backend comes from the same lock, with only its own dependencies.
RUN python3 -m venv --without-pip /opt/operator && python3 -m venv /opt/build && \
    awk '/^[^ #]/ { wanted = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } wanted' \
      requirements-dev.txt > requirements-build.txt && \
    /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt && \
    /opt/build/bin/pip --python /opt/operator/bin/python3 install --no-compile --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml LICENSE ./
COPY operator ./operator
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . && \
    /opt/build/bin/pip --python /opt/operator/bin/python3 install --no-compile --no-deps dist/*.whl
# The root file system is read-only, so Python would compile missing bytecode again at each start (ADR 0013). This compiles only the
# modules that the program imports, Python's own included (the public image has no bytecode for them), not all 70 MB of the Kubernetes
# client. Unchecked hashes leave out file times, so that two builds are the same.
RUN PYTHONPYCACHEPREFIX=/opt/operator/pycache /opt/operator/bin/python3 -c "import sys, py_compile as c, medplum_agent_operator.__main__; \
      [c.compile(f, doraise=True, invalidation_mode=c.PycInvalidationMode.UNCHECKED_HASH) \
       for m in list(sys.modules.values()) if (f := getattr(m, '__file__', None) or '').endswith('.py')]" && \
    find /opt/operator -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
# For the label alone; pyproject.toml has the version.
ARG VERSION=dev
LABEL org.opencontainers.image.title="medplum-agent-operator" \
      org.opencontainers.image.description="Kubernetes operator for the Medplum Agent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# The base has no user of that number, and the Kubernetes client needs a home directory that does not depend on the runtime.
ENV HOME=/ PYTHONDONTWRITEBYTECODE=1 PYTHONPYCACHEPREFIX=/opt/operator/pycache PYTHONUNBUFFERED=1
COPY --from=build /opt/operator /opt/operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/opt/operator/bin/medplum-agent-operator"]
