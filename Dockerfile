# syntax=docker/dockerfile:1
# The operator's image. Build: docker build -t medplum-agent-operator:dev .
# Both stages stand on the same base: any image with Python 3.11 or newer, its venv module and awk. Not 3.13 unless you know your cluster's
# CA: from there on Python refuses one without key identifiers, as clusters have that were made years ago (kubernetes-client/python#2394).
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /build
COPY requirements.txt requirements-dev.txt ./
# What runs gets neither pip nor the build backend. The backend is of the same lock, with what it needs and no more.
RUN python3 -m venv --without-pip /opt/operator && python3 -m venv /opt/build && \
    awk '/^[^ #]/ { wanted = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } wanted' \
      requirements-dev.txt > requirements-build.txt && \
    /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt && \
    /opt/build/bin/pip --python /opt/operator/bin/python3 install --no-compile --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator ./operator
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . && \
    /opt/build/bin/pip --python /opt/operator/bin/python3 install --no-compile --no-deps dist/*.whl
# The root file system is read-only, so what is not compiled here is compiled anew at each start (ADR 0013). Compiled is
# what the program imports, Python's own modules among it (the public image ships them without), and not all of the 70 MB
# of Kubernetes' client. By hash and unchecked: a file's time is not part of it, so that two builds are the same.
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
# No user of that number is in the base, and the Kubernetes client wants a home whatever the runtime sets.
ENV HOME=/ PYTHONDONTWRITEBYTECODE=1 PYTHONPYCACHEPREFIX=/opt/operator/pycache PYTHONUNBUFFERED=1
COPY --from=build /opt/operator /opt/operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/opt/operator/bin/medplum-agent-operator"]
